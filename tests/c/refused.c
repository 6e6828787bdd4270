/* On a CPU that lacks a feature of the target: every entry says so, again and again, and writes
 * nothing. */
#include <mnv2.h>

static float input[MNV2_INPUT_SIZE], output[MNV2_OUTPUT_SIZE];
static double seconds[MNV2_LAYER_COUNT];
static _Alignas(64) char workspace[MNV2_WORKSPACE_BYTES];

int main(void) {
    for (int turn = 0; turn < 2; turn++) {
        if (mnv2_set_threads(2) != MNV2_ERROR_CPU) return 1;
        if (mnv2_run(input, output, workspace) != MNV2_ERROR_CPU) return 2;
        if (mnv2_profile(input, output, workspace, seconds) != MNV2_ERROR_CPU) return 3;
    }
    if (mnv2_run(0, output, workspace) != MNV2_ERROR_NULL) return 4;
    for (int i = 0; i < MNV2_OUTPUT_SIZE; i++)
        if (output[i] != 0) return 5;
    for (int i = 0; i < MNV2_WORKSPACE_BYTES; i++)
        if (workspace[i]) return 6;
    return mnv2_get_threads() == 1 ? 0 : 7;
}
