/* mnv2: MobileNetV2 as one C function.
 *
 *   float input[MNV2_INPUT_SIZE];     [n, y, x, c], c = red, green, blue, normalised
 *   float output[MNV2_OUTPUT_SIZE];   [n, class]
 *   void *workspace = aligned_alloc(64, mnv2_workspace_bytes());
 *   int error = mnv2_run(input, output, workspace);
 *
 * The library needs nothing but libc. Calls with a workspace each may run at the same time: the
 * first takes the library's threads, the others run on the thread that called.
 */
#ifndef MNV2_H
#define MNV2_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MNV2_API __attribute__((visibility("default")))
#else
#define MNV2_API
#endif

#define MNV2_ERROR_NULL 1     /* an argument is NULL */
#define MNV2_ERROR_THREADS 2  /* a thread count outside 1 .. MNV2_MAX_THREADS, or none to be had */
#define MNV2_ERROR_PIN 4      /* no such CPU, or not for this process */
#define MNV2_MAX_THREADS 64

/* Run the network once. The workspace holds mnv2_workspace_bytes() bytes, aligned to 64. */
MNV2_API int mnv2_run(const float *input, float *output, void *workspace);

/* Run it once and write the seconds that each of mnv2_layer_count() layers took. */
MNV2_API int mnv2_profile(const float *input, float *output, void *workspace, double *seconds);

/* Threads for the runs that follow; at first the count given to `build`. */
MNV2_API int mnv2_set_threads(int count);
MNV2_API int mnv2_get_threads(void);

/* Keep thread 0 .. mnv2_get_threads() - 1 on one CPU from now on, for CPUs whose cores differ.
 * Thread 0 is the one that calls this; it stays there outside of the library too. */
MNV2_API int mnv2_pin(int thread, int cpu);

MNV2_API size_t mnv2_input_size(void);  /* floats */
MNV2_API size_t mnv2_output_size(void); /* floats */
MNV2_API size_t mnv2_workspace_bytes(void);
MNV2_API int mnv2_layer_count(void);
MNV2_API const char *mnv2_version(void);

#ifdef __cplusplus
}
#endif

