/* mnv2: MobileNetV2 as one C function.
 *
 *   const float *input;    MNV2_INPUT_SIZE floats [n, y, x, c], c = red, green, blue, normalised
 *   float *output;         MNV2_OUTPUT_SIZE floats [n, class]
 *   void *workspace;
 *   posix_memalign(&workspace, 64, mnv2_workspace_bytes());
 *   int error = mnv2_run(input, output, workspace);
 *
 * The library needs nothing but libc and its threads. Calls with a workspace each may run at the
 * same time: the first takes the library's threads, the others run on the thread that called.
 *
 * Versions: a program that was compiled with this header runs with a library of the same MAJOR and
 * the same or a later MINOR; before 1.0, of the same MINOR. The SONAME is libmnv2.so without a
 * number: a library holds one network and belongs to the program it was built for. One that may
 * meet another network's asks mnv2_input_shape() and the like, and takes no constant from here.
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
#define MNV2_ERROR_CPU 3      /* this CPU lacks a feature of the target; nothing has run */
#define MNV2_ERROR_PIN 4      /* no such CPU, or not for this process */
#define MNV2_MAX_THREADS 64

/* Run the network once. The workspace holds mnv2_workspace_bytes() bytes, aligned to 64.
 * Returns 0 or an error from above, as do all functions of type int that take arguments. */
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
MNV2_API const int *mnv2_input_shape(void);  /* four: images, rows, columns, channels */
MNV2_API const int *mnv2_output_shape(void); /* two: images, classes */
MNV2_API size_t mnv2_workspace_bytes(void);
MNV2_API int mnv2_layer_count(void);
MNV2_API const char *mnv2_version(void); /* MNV2_VERSION of the library that runs */

#ifdef __cplusplus
}
#endif

