/* The constants of mnv2.h and what the library says of itself are the same. C99 and C++98. */
#include <mnv2.h>

#include <stdio.h>
#include <string.h>

int main(void) {
    const int input[4] = MNV2_INPUT_SHAPE, output[MNV2_OUTPUT_RANK] = MNV2_OUTPUT_SHAPE;
    char version[64];
    if (memcmp(input, mnv2_input_shape(), sizeof input)) return 1;
    if (memcmp(output, mnv2_output_shape(), sizeof output)) return 2;
    if (input[0] * input[1] * input[2] * input[3] != MNV2_INPUT_SIZE) return 3;
    if (mnv2_input_size() != MNV2_INPUT_SIZE || mnv2_output_size() != MNV2_OUTPUT_SIZE) return 4;
    if (mnv2_workspace_bytes() != MNV2_WORKSPACE_BYTES) return 5;
    if (mnv2_layer_count() != MNV2_LAYER_COUNT) return 6;
    if (mnv2_output_rank() != MNV2_OUTPUT_RANK) return 8;
    sprintf(version, "%d.%d.%d", MNV2_VERSION_MAJOR, MNV2_VERSION_MINOR, MNV2_VERSION_PATCH);
    if (strcmp(version, MNV2_VERSION) || strcmp(version, mnv2_version())) return 7;
    puts(version);
    return 0;
}
