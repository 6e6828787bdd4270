/* A user's program: mnv2.h, libmnv2.so and libc. classify INPUT OUTPUT, both raw float32. */
#include <mnv2.h>

#include <stdio.h>
#include <stdlib.h>

static float input[MNV2_INPUT_SIZE];
static float output[MNV2_OUTPUT_SIZE];

int main(int count, char **arguments) {
    if (count != 3) return 2;
    FILE *file = fopen(arguments[1], "rb");
    if (!file || fread(input, sizeof(float), MNV2_INPUT_SIZE, file) != MNV2_INPUT_SIZE) return 3;
    fclose(file);

    void *workspace = aligned_alloc(64, mnv2_workspace_bytes());
    if (!workspace) return 4;
    if (mnv2_run(NULL, output, workspace) != MNV2_ERROR_NULL) return 5;
    if (mnv2_run(input, NULL, workspace) != MNV2_ERROR_NULL) return 5;
    if (mnv2_run(input, output, NULL) != MNV2_ERROR_NULL) return 5;
    int error = mnv2_run(input, output, workspace);
    free(workspace);
    if (error) return 6;

    file = fopen(arguments[2], "wb");
    if (!file || fwrite(output, sizeof(float), MNV2_OUTPUT_SIZE, file) != MNV2_OUTPUT_SIZE) return 7;
    if (fclose(file)) return 7;
    printf("%s %d %zu\n", mnv2_version(), mnv2_layer_count(), mnv2_workspace_bytes());
    return 0;
}
