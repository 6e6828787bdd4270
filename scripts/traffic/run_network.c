/* run_network COUNT: that many runs of the network on one image of zeros. */
#include <mnv2.h>

#include <stdlib.h>

static float input[MNV2_INPUT_SIZE];
static float output[MNV2_OUTPUT_SIZE];

int main(int count, char **arguments) {
    if (count != 2) return 2;
    void *workspace = aligned_alloc(64, mnv2_workspace_bytes());
    if (!workspace) return 3;
    for (int runs = atoi(arguments[1]); runs > 0; runs--)
        if (mnv2_run(input, output, workspace)) return 4;
    return 0;
}
