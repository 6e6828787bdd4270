/* Two threads run the library at once, a workspace and an image each: every output must be, bit
 * for bit, that of a run alone. Before each round the team has one size, then another. */
#define _GNU_SOURCE
#include <mnv2.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALLERS 2
#ifndef RUNS
#define RUNS 40
#endif

struct caller {
    float input[MNV2_INPUT_SIZE];
    float alone[MNV2_OUTPUT_SIZE];
    void *workspace;
    int wrong;
};

static pthread_barrier_t start;

static void *call(void *argument) {
    struct caller *caller = argument;
    float output[MNV2_OUTPUT_SIZE];
    pthread_barrier_wait(&start);
    for (int run = 0; run < RUNS; run++) {
        memset(output, 0xff, sizeof output);
        if (mnv2_run(caller->input, output, caller->workspace)) caller->wrong++;
        if (memcmp(output, caller->alone, sizeof output)) caller->wrong++;
    }
    return NULL;
}

int main(void) {
    struct caller *callers = calloc(CALLERS, sizeof *callers);
    for (int c = 0; c < CALLERS; c++) {
        for (int i = 0; i < MNV2_INPUT_SIZE; i++)
            callers[c].input[i] = (float)((i * (7 + 4 * c)) % 101) / 50.0f - 1.0f;
        callers[c].workspace = aligned_alloc(64, mnv2_workspace_bytes());
        if (mnv2_set_threads(1)) return 2;
        if (mnv2_run(callers[c].input, callers[c].alone, callers[c].workspace)) return 3;
    }
    if (!memcmp(callers[0].alone, callers[1].alone, sizeof callers[0].alone)) return 4;

    static const int teams[] = {1, 2, 3, 1, 2};
    pthread_barrier_init(&start, NULL, CALLERS);
    for (size_t round = 0; round < sizeof teams / sizeof *teams; round++) {
        pthread_t threads[CALLERS];
        if (mnv2_set_threads(teams[round]) || mnv2_get_threads() != teams[round]) return 5;
        for (int c = 0; c < CALLERS; c++) pthread_create(&threads[c], NULL, call, &callers[c]);
        for (int c = 0; c < CALLERS; c++) pthread_join(threads[c], NULL);
    }
    for (int c = 0; c < CALLERS; c++) {
        if (callers[c].wrong) printf("caller %d: %d wrong\n", c, callers[c].wrong);
        if (callers[c].wrong) return 1;
    }
    if (mnv2_set_threads(0) != MNV2_ERROR_THREADS) return 6;
    if (mnv2_set_threads(MNV2_MAX_THREADS + 1) != MNV2_ERROR_THREADS) return 6;
    if (mnv2_get_threads() != teams[sizeof teams / sizeof *teams - 1]) return 7;
    return 0;
}
