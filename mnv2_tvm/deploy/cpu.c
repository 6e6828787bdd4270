/* Has this CPU what the target file names? Asked before the first kernel runs, in code for the
 * least CPU of the architecture. MNV2_CPU_FEATURES are rows of cpu_features.py. */
#include <stdatomic.h>

int mnv2_cpu_suffices(void);

#if defined(__x86_64__)
#include <cpuid.h>

struct feature {
    unsigned leaf, word, bit, state;
};

/* What the system saves when it switches threads: registers it does not save cannot be used. */
static unsigned saved_state(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return a;
}

static int has(const struct feature *feature) {
    unsigned words[4];
    if (!__get_cpuid_count(feature->leaf, 0, &words[0], &words[1], &words[2], &words[3])) return 0;
    if (!(words[feature->word] >> feature->bit & 1)) return 0;
    return !feature->state || (saved_state() & feature->state) == feature->state;
}
#else
#include <sys/auxv.h>

struct feature {
    unsigned long vector, bit;
};

static int has(const struct feature *feature) {
    return getauxval(feature->vector) >> feature->bit & 1;
}
#endif

static const struct feature needed[] = {MNV2_CPU_FEATURES{0}}; /* ends in a row that is none */

int mnv2_cpu_suffices(void) {
    enum { UNKNOWN, SUFFICES, LACKS };
    static atomic_int verdict;
    int known = atomic_load_explicit(&verdict, memory_order_relaxed);
    if (known == UNKNOWN) {
        known = SUFFICES;
        for (unsigned i = 0; i + 1 < sizeof needed / sizeof *needed; i++)
            if (!has(&needed[i])) known = LACKS;
        atomic_store_explicit(&verdict, known, memory_order_relaxed);
    }
    return known == SUFFICES;
}
