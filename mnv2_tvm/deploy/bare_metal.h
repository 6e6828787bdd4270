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
 * with a workspace each may interrupt one another.
 */
#ifndef MNV2_H
#define MNV2_H

#ifdef __cplusplus
extern "C" {
#endif

#define MNV2_ERROR_NULL 1 /* an argument is NULL */

/* Run the network once. The workspace holds MNV2_WORKSPACE_BYTES bytes, aligned to 8. */
int mnv2_run(const float *input, float *output, void *workspace);

#ifdef __cplusplus
}
#endif

