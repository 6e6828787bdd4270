/* The threads of the library: started once, asleep between runs, told where to run. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <mnv2.h>

#include "steps.h"

#define CREDIT_S 2e-3 /* time won with the team that may be lost again before it rests */
#define REST 16       /* it rests so many times as long as it has cost */
#define SAMPLED 8     /* every so many runs tell what one thread would take */

struct worker {
    pthread_t id;
    int thread;
    int tid;       /* 0 until it has started */
    int dismissed; /* by mnv2_shutdown */
    unsigned seen; /* the last run that it knows of */
    _Alignas(64) char scratch[MNV2_SCRATCH_BYTES + 1];
};

static const pthread_mutex_t unlocked = PTHREAD_MUTEX_INITIALIZER;
static const pthread_cond_t unwaited = PTHREAD_COND_INITIALIZER;
static pthread_mutex_t owner = PTHREAD_MUTEX_INITIALIZER; /* held by the run that has the team */
/* The owner's: */
static double alone_s; /* what one thread takes for a run */
static double credit_s, rest_until_s;
static unsigned sample;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards what follows */
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;   /* a new run, or the end */
static pthread_cond_t started = PTHREAD_COND_INITIALIZER;
static struct worker *workers[MNV2_MAX_THREADS];
static int count; /* of `workers`; the caller is one more of the team */
static struct run current;
static unsigned generation; /* of `current` */

static atomic_int pinned[MNV2_MAX_THREADS]; /* CPU of each thread plus one; 0: any */
static atomic_int process;                  /* whose threads these are */
static atomic_int *unforked;                /* 1, and 0 again in a forked child */

static int move_to(int tid, int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return sched_setaffinity(tid, sizeof set, &set);
}

static void *work(void *memory) {
    struct worker *self = memory;
    int wish = atomic_load(&pinned[self->thread]);
    if (wish) move_to(0, wish - 1);
    pthread_mutex_lock(&lock);
    self->tid = (int)syscall(SYS_gettid);
    pthread_cond_broadcast(&started);
    for (;;) {
        while (generation == self->seen && !self->dismissed) pthread_cond_wait(&wake, &lock);
        if (self->dismissed) break;
        self->seen = generation;
        struct run run = current;
        pthread_mutex_unlock(&lock);
        struct patience patience = {.spin_s = LONGEST_SPIN_S};
        if (self->thread < run.threads) mnv2_walk(&run, self->thread, self->scratch, &patience);
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* Memory that the system empties in a forked child. A process number may be the parent's there. */
static atomic_int *map_unforked(void) {
    size_t size = sizeof(atomic_int);
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return NULL;
    return madvise(memory, size, MADV_WIPEONFORK) ? NULL : memory; /* before Linux 4.14 */
}

/* In a forked child, forget the team of the parent. Threads that come here at once wait for one. */
static void settle(void) {
    int self = getpid();
    for (;;) {
        int known = atomic_load(&process);
        if (known == self && (!unforked || atomic_load(unforked))) return;
        /* Minus a number: that process is at it. A child of it begins anew. */
        if (known == -self || !atomic_compare_exchange_strong(&process, &known, -self)) continue;
        if (known) {
            owner = lock = unlocked;
            wake = started = unwaited;
            count = 0;
            mnv2_forget_sleepers();
        }
        if (!unforked) unforked = map_unforked();
        if (unforked) atomic_store(unforked, 1);
        atomic_store(&process, self);
        return;
    }
}

static int start_worker(void) {
    void *memory;
    if (posix_memalign(&memory, 64, sizeof(struct worker))) return -1;
    struct worker *worker = memory;
    memset(worker, 0, offsetof(struct worker, scratch));
    worker->thread = count + 1;
    worker->seen = generation;
    sigset_t all, before; /* signals are for the program's own threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&worker->id, NULL, work, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        free(worker);
    else
        workers[count++] = worker;
    return error;
}

/* Under `lock`. */
static int start_missing(int threads) {
    while (count < threads - 1 && !start_worker()) {}
    return count + 1 < threads ? count + 1 : threads;
}

int mnv2_start_threads(int threads) {
    settle();
    pthread_mutex_lock(&lock);
    int size = start_missing(threads);
    pthread_mutex_unlock(&lock);
    return size;
}

void mnv2_end_threads(void) {
    struct worker *leaving[MNV2_MAX_THREADS];
    settle();
    pthread_mutex_lock(&lock);
    int all = count;
    for (int i = 0; i < all; i++) {
        leaving[i] = workers[i];
        leaving[i]->dismissed = 1;
    }
    count = 0;
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < all; i++) {
        pthread_join(leaving[i]->id, NULL);
        free(leaving[i]);
    }
}

int mnv2_pin_thread(int thread, int cpu) {
    int error = -1;
    if (thread == 0) error = move_to(0, cpu);
    pthread_mutex_lock(&lock);
    if (0 < thread && thread <= count) {
        struct worker *worker = workers[thread - 1];
        while (!worker->tid) pthread_cond_wait(&started, &lock);
        error = move_to(worker->tid, cpu);
    }
    pthread_mutex_unlock(&lock);
    if (!error) atomic_store(&pinned[thread], cpu + 1);
    return error;
}

/* How many CPUs are in `all` when those of a thread are added. */
static int add_cpus(int tid, cpu_set_t *all) {
    cpu_set_t one;
    if (!sched_getaffinity(tid, sizeof one, &one)) CPU_OR(all, all, &one);
    unsigned long words[sizeof *all / sizeof(unsigned long)];
    memcpy(words, all, sizeof words); /* CPU_COUNT is a function that some libc lack */
    int cpus = 0;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        cpus += __builtin_popcountl(words[i]);
    return cpus;
}

/* At most a thread for each CPU that one of them may use; those yet to be started may use the
 * caller's. A team whose threads are all pinned is as the program wants it. Under `lock`. */
static int limit(int threads) {
    int wishes = 0;
    while (wishes < threads && atomic_load(&pinned[wishes])) wishes++;
    if (wishes == threads) return threads;
    cpu_set_t all;
    CPU_ZERO(&all);
    int cpus = add_cpus(0, &all);
    for (int i = 0; i < count && i < threads - 1 && cpus < threads; i++)
        if (workers[i]->tid) cpus = add_cpus(workers[i]->tid, &all);
    return cpus && cpus < threads ? cpus : threads; /* none known: more than a set can name */
}

int mnv2_limit_team(int threads) {
    if (threads == 1) return 1;
    settle();
    pthread_mutex_lock(&lock);
    int size = limit(threads);
    pthread_mutex_unlock(&lock);
    return size;
}

static double cpu_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Let the team rest where runs lose time with it: beside a busy program, which takes the CPU from
 * a thread in the middle of a share, one thread is faster. */
static void weigh(double end, double seconds) {
    credit_s += alone_s - seconds;
    if (credit_s > CREDIT_S) credit_s = CREDIT_S;
    if (credit_s >= 0) return;
    rest_until_s = end - REST * credit_s;
    credit_s = 0;
}

/* What one thread would take follows from the time of the caller's shares, on its CPU and without
 * waiting. That clock is slow to ask, so it is asked in some runs. */
static void walk_together(struct run *run) {
    struct patience patience = {.spin_s = LONGEST_SPIN_S};
    int sampled = sample++ % SAMPLED == 0;
    double start = mnv2_now(), cpu = sampled ? cpu_now() : 0;
    int mine = mnv2_walk(run, 0, run->workspace, &patience);
    if (sampled && mine) {
        double busy_s = cpu_now() - cpu - patience.spun_s;
        double estimate_s = busy_s * run->threads * MNV2_LAYER_COUNT / mine;
        alone_s += (estimate_s - alone_s) / (alone_s > 0 ? 4 : 1);
    }
    double end = mnv2_now();
    weigh(end, end - start);
}

void mnv2_do_run(struct run *run, int threads) {
    if (threads > 1) settle();
    if (threads == 1 || pthread_mutex_trylock(&owner)) {
        mnv2_walk_alone(run);
        return;
    }
    pthread_mutex_lock(&lock);
    run->threads = mnv2_now() < rest_until_s ? 1 : start_missing(limit(threads));
    if (run->threads > 1) {
        mnv2_open_run(run);
        current = *run;
        generation++;
    }
    pthread_mutex_unlock(&lock);
    if (run->threads > 1) {
        pthread_cond_broadcast(&wake);
        walk_together(run);
    } else {
        mnv2_walk_alone(run);
    }
    pthread_mutex_unlock(&owner);
}
