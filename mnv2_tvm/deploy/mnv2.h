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
 * NaN in the input gives NaN in the output; nothing checks the input for it.
 *
 * Versions: a program that was compiled with this header runs with a library of the same MAJOR and
 * the same or a later MINOR; before 1.0, of the same MINOR. It runs with its own network alone:
 * the functions below carry the network's name for the linker, so that another network's library
 * is refused (`undefined reference to mnv2_run_...`), and that a program may hold several networks
 * of static libraries, each used by files with its own header.
 *
 * With MNV2_ANY_NETWORK defined before this header, a program runs with the shared library of any
 * network. It has no constants then and asks mnv2_input_shape() and the like. The SONAME is
 * libmnv2.so without a number.
 */
#if defined(MNV2_H) && !defined(MNV2_ANY_NETWORK) && !defined(MNV2_IS_@NETWORK@)
#error "the headers of two networks in one file: give each a file of its own"
#endif
#ifndef MNV2_H
#define MNV2_H

#include <stddef.h>

@VERSION@
#ifndef MNV2_ANY_NETWORK
#define MNV2_IS_@NETWORK@
@CONSTANTS@
#endif

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MNV2_API __attribute__((visibility("default")))
#else
#define MNV2_API
#endif

/* What the linker calls a function. */
#if defined(__GNUC__) && !defined(MNV2_ANY_NETWORK)
#define MNV2_NAME(name) __asm__(name "_" MNV2_NETWORK)
#else
#define MNV2_NAME(name)
#endif

#define MNV2_ERROR_NULL 1     /* an argument is NULL */
#define MNV2_ERROR_THREADS 2  /* a thread count outside 1 .. MNV2_MAX_THREADS, or none to be had */
#define MNV2_ERROR_CPU 3      /* this CPU lacks a feature of the target; nothing has run */
#define MNV2_ERROR_PIN 4      /* no such CPU, or not for this process */
#define MNV2_MAX_THREADS 64

/* Run the network once. The workspace holds mnv2_workspace_bytes() bytes, aligned to 64.
 * Returns 0 or an error from above, as do all functions of type int that take arguments. */
MNV2_API int mnv2_run(const float *input, float *output, void *workspace) MNV2_NAME("mnv2_run");

/* Run it once and write the seconds that each of mnv2_layer_count() layers took. */
MNV2_API int mnv2_profile(const float *input, float *output, void *workspace, double *seconds)
    MNV2_NAME("mnv2_profile");

/* Threads for the runs that follow; at first the count given to `build`. A run takes no more than
 * there are CPUs which this process may use, and for a while only one where another program has
 * the CPUs of the others. */
MNV2_API int mnv2_set_threads(int count) MNV2_NAME("mnv2_set_threads");
MNV2_API int mnv2_get_threads(void) MNV2_NAME("mnv2_get_threads");

/* The threads that a run from this thread takes now: mnv2_get_threads(), or fewer if fewer CPUs
 * may be used. Threads that are all pinned by mnv2_pin() are all taken. */
MNV2_API int mnv2_team_threads(void) MNV2_NAME("mnv2_team_threads");

/* Keep thread 0 .. mnv2_get_threads() - 1 on one CPU from now on, for CPUs whose cores differ.
 * Thread 0 is the one that calls this; it stays there outside of the library too. */
MNV2_API int mnv2_pin(int thread, int cpu) MNV2_NAME("mnv2_pin");

/* End the library's threads, after their run. They sleep between runs and take no signals; the
 * next run starts them again. A library that was loaded stays in memory until the process ends,
 * also after dlclose, with its weights: who loads many one after another does so in processes. */
MNV2_API void mnv2_shutdown(void) MNV2_NAME("mnv2_shutdown");

MNV2_API size_t mnv2_input_size(void) MNV2_NAME("mnv2_input_size");   /* floats */
MNV2_API size_t mnv2_output_size(void) MNV2_NAME("mnv2_output_size"); /* floats */
/* Images, rows, columns, channels. */
MNV2_API const int *mnv2_input_shape(void) MNV2_NAME("mnv2_input_shape");
/* mnv2_output_rank() numbers: images and classes, or those of a map as above. */
MNV2_API const int *mnv2_output_shape(void) MNV2_NAME("mnv2_output_shape");
MNV2_API int mnv2_output_rank(void) MNV2_NAME("mnv2_output_rank");
MNV2_API size_t mnv2_workspace_bytes(void) MNV2_NAME("mnv2_workspace_bytes");
MNV2_API int mnv2_layer_count(void) MNV2_NAME("mnv2_layer_count");
/* MNV2_VERSION of the library that runs. */
MNV2_API const char *mnv2_version(void) MNV2_NAME("mnv2_version");

#ifdef __cplusplus
}
#endif

#endif
