/* ENTRY(): the library that this file's header belongs to has as many outputs as that says, and
 * writes them all and no more. */
#include <mnv2.h>

#include <stdlib.h>
#include <string.h>

int ENTRY(void) {
    static float input[MNV2_INPUT_SIZE], output[MNV2_OUTPUT_SIZE + 1];
    void *workspace;
    if (posix_memalign(&workspace, 64, mnv2_workspace_bytes())) return 2;
    memset(output, 0xff, sizeof output);
    if (mnv2_output_size() != MNV2_OUTPUT_SIZE) return 3;
    if (mnv2_run(input, output, workspace)) return 4;
    free(workspace);
    for (int i = 0; i < MNV2_OUTPUT_SIZE; i++)
        if (output[i] != output[i]) return 5;
    return output[MNV2_OUTPUT_SIZE] == output[MNV2_OUTPUT_SIZE]; /* NaN is not */
}
