/* The FMA loop of `peak.c` on several threads at once, timed where it runs: a TVM entry.
 *
 * `lib["mnv2_fma_seconds"](factor, addend, rounds, threads)` is the time from the start of the
 * first thread to the end of the last. A board and this host run the same one.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>
#include <tvm/ffi/c_api.h>

#define MAX_THREADS 64

float mnv2_fma_rounds(float factor, float addend, long rounds);

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

/* Seconds, or less than 0 where so many threads cannot be had. */
static double fma_seconds(float factor, float addend, long rounds, int threads) {
    struct share shares[MAX_THREADS];
    pthread_t handles[MAX_THREADS];
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

__attribute__((visibility("default"))) int __tvm_ffi_mnv2_fma_seconds(void *self,
                                                                      const TVMFFIAny *arguments,
                                                                      int32_t count,
                                                                      TVMFFIAny *result) {
    (void)self;
    result->type_index = kTVMFFIFloat;
    result->zero_padding = 0;
    result->v_float64 = -1;
    if (count != 4 || arguments[0].type_index != kTVMFFIFloat ||
        arguments[1].type_index != kTVMFFIFloat || arguments[2].type_index != kTVMFFIInt ||
        arguments[3].type_index != kTVMFFIInt)
        return 0;
    int64_t threads = arguments[3].v_int64;
    if (threads < 1 || threads > MAX_THREADS) return 0;
    result->v_float64 = fma_seconds((float)arguments[0].v_float64, (float)arguments[1].v_float64,
                                    (long)arguments[2].v_int64, (int)threads);
    return 0;
}
