/* What the static programs share: embedded files, the clock, statistics, how they end. */
#ifndef MNV2_PROGRAM_H
#define MNV2_PROGRAM_H

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Exit codes beside 0. A program that is late ends by SIGALRM. */
enum { EXIT_WRONG_NUMBERS = 1, EXIT_OPTION = 2, EXIT_RESOURCE = 3 };

/* The bytes of a file as `const char name[]`, aligned to 64. */
#define EMBED(name, file)                              \
    __asm__(".section .rodata." #name ", \"a\", %progbits\n" \
            ".balign 64\n" #name ": .incbin \"" file "\"\n" \
            ".previous\n");                            \
    extern const char name[] __attribute__((visibility("hidden")))

static inline double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Largest absolute error over the largest absolute reference value; NaN counts as infinite. */
static inline double relative_error(const float *result, const float *reference, size_t count) {
    double error = 0, largest = 0;
    for (size_t i = 0; i < count; i++) {
        double difference = fabs((double)result[i] - reference[i]);
        if (!isfinite(difference)) return INFINITY;
        error = fmax(error, difference);
        largest = fmax(largest, fabs((double)reference[i]));
    }
    return error / largest;
}

static inline int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

/* The value that a share of the sorted values lies below, interpolated as numpy does. */
static inline double percentile(const double *sorted, int count, double share) {
    double place = share * (count - 1);
    int below = (int)place, above = below + (below < count - 1);
    return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

/* Memory aligned to 64, or the end of the program. */
static inline void *allocate(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 64) / 64 * 64);
    if (!memory) {
        fprintf(stderr, "no memory for %zu bytes\n", bytes);
        exit(EXIT_RESOURCE);
    }
    return memory;
}

/* Say what an illegal instruction means before it ends the program. */
static inline void illegal(int signal_number) {
    static const char text[] = "this CPU lacks an instruction of " PROGRAM_NEEDS "\n";
    ssize_t written = write(2, text, sizeof text - 1);
    (void)written;
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

#endif
