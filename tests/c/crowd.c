/* crowd CPU: teams of three and five threads that are all pinned, so that all of them run, on one
 * CPU: whoever waits must let the others in, and the numbers are those of one thread. */
#define _GNU_SOURCE
#include <mnv2.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef RUNS
#define RUNS 200
#endif

static float input[MNV2_INPUT_SIZE], alone[MNV2_OUTPUT_SIZE], output[MNV2_OUTPUT_SIZE];

int main(int count, char **arguments) {
    if (count != 2) return 2;
    alarm(60);
    int cpu = atoi(arguments[1]);
    for (int i = 0; i < MNV2_INPUT_SIZE; i++) input[i] = (float)(i * 7 % 101) / 50.0f - 1.0f;
    void *workspace = aligned_alloc(64, (mnv2_workspace_bytes() + 63) / 64 * 64);
    if (mnv2_set_threads(1) || mnv2_run(input, alone, workspace)) return 3;
    static const int teams[] = {3, 5, 2};
    for (size_t round = 0; round < sizeof teams / sizeof *teams; round++) {
        if (mnv2_set_threads(teams[round])) return 4;
        for (int thread = teams[round] - 1; thread >= 0; thread--)
            if (mnv2_pin(thread, cpu)) return 5;
        if (mnv2_get_threads() != teams[round] || mnv2_team_threads() != teams[round]) return 6;
        for (int run = 0; run < RUNS; run++) {
            memset(output, 0xff, sizeof output);
            if (run % 10 == 9) usleep(2000); /* lets the team work again after it has rested */
            if (mnv2_run(input, output, workspace)) return 7;
            if (memcmp(output, alone, sizeof alone)) return 8;
        }
    }
    free(workspace);
    return 0;
}
