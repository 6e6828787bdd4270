/* The steps of a run, done by several threads.
 *
 * A step has as many shares as the team has threads. Each thread takes its own share first, so
 * that its caches know the data of the step before, and then what nobody has begun: a thread that
 * has lost its CPU to another program holds up no more than the share it is in. Every share is
 * done once, by one thread, so the numbers do not depend on who does it.
 *
 * `done` counts the shares that are finished, over all steps and runs. A step is over when it comes
 * to a number that everybody knows beforehand; who waits for that spins for a moment, as steps
 * take microseconds, then sleeps. A share is taken by moving its mark from the count at which its
 * step begins to the count at which it ends: whoever wakes up late, even in a later run, finds no
 * mark where it expects one and takes nothing.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <mnv2.h>

#include "steps.h"

#define SPINS 32 /* between two looks at the clock */

static struct {
    _Alignas(64) atomic_uint mark;
} shares[MNV2_MAX_THREADS];
static _Alignas(64) atomic_uint done;
static atomic_int sleepers; /* threads that wait in the kernel for `done` to move */

double mnv2_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#elif defined(__arm__)
    __asm__ volatile("yield");
#endif
}

static int reached(unsigned target) {
    return (int)(atomic_load_explicit(&done, memory_order_acquire) - target) >= 0;
}

static void finish_share(unsigned last) {
    unsigned before = atomic_fetch_add(&done, 1);
    /* A sleeper counts itself before it looks at `done` for the last time: one of us sees it. */
    if (before + 1 == last && atomic_load(&sleepers))
        syscall(SYS_futex, &done, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void sleep_until(unsigned target) {
    atomic_fetch_add(&sleepers, 1);
    for (;;) {
        unsigned seen = atomic_load(&done);
        if ((int)(seen - target) >= 0) break;
        syscall(SYS_futex, &done, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    }
    atomic_fetch_sub(&sleepers, 1);
}

/* A thread that spun in vain does so for a shorter time next: perhaps it is in the way. */
static void wait_for(unsigned target, struct patience *patience) {
    double start = 0, spun = 0;
    for (int spins = 1; !reached(target); spins++) {
        pause_briefly();
        if (spins % SPINS) continue;
        if (start == 0) start = mnv2_now();
        spun = mnv2_now() - start;
        if (spun < patience->spin_s) continue;
        sleep_until(target);
        patience->spun_s += patience->spin_s; /* and not what it was away from its CPU */
        patience->spin_s /= 2;
        if (patience->spin_s < SHORTEST_SPIN_S) patience->spin_s = SHORTEST_SPIN_S;
        return;
    }
    patience->spun_s += spun;
    patience->spin_s *= 2;
    if (patience->spin_s > LONGEST_SPIN_S) patience->spin_s = LONGEST_SPIN_S;
}

void mnv2_open_run(struct run *run) {
    run->start = atomic_load(&done);
    for (int i = 0; i < run->threads; i++) atomic_store(&shares[i].mark, run->start);
}

static int take(unsigned share, unsigned first, unsigned last) {
    atomic_uint *mark = &shares[share].mark;
    if (atomic_load_explicit(mark, memory_order_relaxed) != first) return 0;
    return atomic_compare_exchange_strong(mark, &first, last);
}

/* Do a thread's own share of a step, and after a moment in which the others may have come those
 * that nobody has begun; at once if they were not there the step before. Returns the shares done. */
static int do_step(const struct run *run, int step, int thread, void *scratch, int *absent) {
    unsigned threads = (unsigned)run->threads;
    unsigned first = run->start + (unsigned)step * threads, last = first + threads;
    int mine = 0, own = 0;
    for (unsigned turn = 0; turn < threads && !reached(last); turn++) {
        if (turn == 1 && !*absent)
            for (int spins = 0; spins < SPINS && !reached(last); spins++) pause_briefly();
        unsigned share = (unsigned)thread + turn;
        if (share >= threads) share -= threads; /* ARMv7 divides in a function of its own */
        if (!take(share, first, last)) continue;
        mnv2_do_share(run, step, (int)share, thread, scratch);
        finish_share(last);
        mine++;
        if (turn == 0) own = 1;
    }
    *absent = mine > own;
    return mine;
}

int mnv2_walk(const struct run *run, int thread, void *scratch, struct patience *patience) {
    int mine = 0, absent = 0;
    double *seconds = thread == 0 ? run->seconds : NULL;
    double start = seconds ? mnv2_now() : 0;
    for (int step = 0; step < MNV2_LAYER_COUNT; step++) {
        mine += do_step(run, step, thread, scratch, &absent);
        wait_for(run->start + (unsigned)(step + 1) * (unsigned)run->threads, patience);
        if (!seconds) continue;
        double end = mnv2_now();
        seconds[step] = end - start;
        start = end;
    }
    return mine;
}

void mnv2_walk_alone(struct run *run) {
    run->threads = 1;
    for (int step = 0; step < MNV2_LAYER_COUNT; step++) {
        double start = run->seconds ? mnv2_now() : 0;
        mnv2_do_share(run, step, 0, 0, run->workspace);
        if (run->seconds) run->seconds[step] = mnv2_now() - start;
    }
}

void mnv2_forget_sleepers(void) { atomic_store(&sleepers, 0); }
