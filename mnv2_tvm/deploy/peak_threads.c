/* The FMA loop of `peak.c` on several threads at once, timed where it runs. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#include "peak.h"

struct share {
    float factor, addend, sum;
    long rounds;
    atomic_int *awaited; /* threads that have not come yet */
    double start, end;
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void *work(void *argument) {
    struct share *share = argument;
    atomic_fetch_sub(share->awaited, 1);
    while (atomic_load(share->awaited) > 0) sched_yield();
    share->start = now();
    share->sum = mnv2_fma_rounds(share->factor, share->addend, share->rounds);
    share->end = now();
    return NULL;
}

double mnv2_fma_seconds(float factor, float addend, long rounds, int threads) {
    struct share shares[MNV2_PEAK_THREADS];
    pthread_t handles[MNV2_PEAK_THREADS];
    atomic_int awaited = threads;
    int started = 0; /* beside this one */
    for (int i = 0; i < threads; i++)
        shares[i] = (struct share){factor, addend, 0, rounds, &awaited, 0, 0};
    while (started < threads - 1 &&
           !pthread_create(&handles[started], NULL, work, &shares[started + 1]))
        started++;
    atomic_fetch_sub(&awaited, threads - 1 - started); /* those that will not come */
    work(&shares[0]);
    for (int i = 0; i < started; i++) pthread_join(handles[i], NULL);
    double start = shares[0].start, end = shares[0].end;
    for (int i = 1; i <= started; i++) {
        if (shares[i].start < start) start = shares[i].start;
        if (shares[i].end > end) end = shares[i].end;
    }
    return started < threads - 1 ? -1 : end - start;
}
