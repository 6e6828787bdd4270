/* mnv2: MobileNetV2 as one C function, for a microcontroller.
 *
 *   static float input[MNV2_INPUT_SIZE];     [n, y, x, c], c = red, green, blue, normalised
 *   static float output[MNV2_OUTPUT_SIZE];   [n, class]
 *   static _Alignas(8) char workspace[MNV2_WORKSPACE_BYTES];
 *   int error = mnv2_run(input, output, workspace);
 *
 * You declare the workspace, so that you choose its RAM, and may use it otherwise between runs. The
 * weights are constants in the section .rodata.mnv2, which is to be in flash. The FPU must be on. The
 * library needs nothing but memset and memcpy; it starts no threads and keeps no state, so runs
 * with a workspace each may interrupt one another. NaN in the input gives NaN in the output.
 *
 * The function carries the network's name for the linker, so that another network's library is
 * refused, and that a program may hold several, each used by files with its own header.
 */
#if defined(MNV2_H) && !defined(MNV2_IS_@NETWORK@)
#error "the headers of two networks in one file: give each a file of its own"
#endif
#ifndef MNV2_H
#define MNV2_H

#define MNV2_IS_@NETWORK@
@VERSION@
@CONSTANTS@

#ifdef __cplusplus
extern "C" {
#endif

/* What the linker calls a function. */
#define MNV2_NAME(name) __asm__(name "_" MNV2_NETWORK)

#define MNV2_ERROR_NULL 1 /* an argument is NULL */

/* Run the network once. The workspace holds MNV2_WORKSPACE_BYTES bytes, aligned to 8. */
int mnv2_run(const float *input, float *output, void *workspace) MNV2_NAME("mnv2_run");

#ifdef __cplusplus
}
#endif

#endif
