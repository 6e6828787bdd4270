/* What the programs that measure a network share: the FMA peak, memory, numbers as JSON, options. */
#ifndef MNV2_PROGRAM_FIGURES_H
#define MNV2_PROGRAM_FIGURES_H

#include "peak.h"
#include "program.h"

enum { PEAK_SAMPLES = 5 };
static const double PEAK_SAMPLE_S = 0.05;

static void no_threads(int threads) {
    fprintf(stderr, "%d threads cannot be had\n", threads);
    exit(EXIT_RESOURCE);
}

static double sample_peak(long rounds, int threads) {
    double elapsed = mnv2_fma_seconds(0.999f, 0.001f, rounds, threads); /* towards 1 */
    if (elapsed < 0) no_threads(threads);
    return elapsed;
}

/* The best of several samples, with all threads at work at once. */
static double peak_gflop_per_s(int threads, double flop_per_round) {
    long rounds = 1000;
    double elapsed = 0;
    while (elapsed < PEAK_SAMPLE_S / 4) elapsed = sample_peak(rounds *= 2, 1);
    rounds = (long)((double)rounds * PEAK_SAMPLE_S / elapsed);
    double best = INFINITY;
    for (int i = 0; i < PEAK_SAMPLES; i++) best = fmin(best, sample_peak(rounds, threads));
    return (double)threads * (double)rounds * flop_per_round / best / 1e9;
}

/* A size of /proc/self/status, or -1 where Linux does not tell. */
static double status_bytes(const char *key) {
    char line[256];
    long kib = -1;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && kib < 0 && fgets(line, sizeof line, file))
        if (!strncmp(line, key, strlen(key))) kib = atol(line + strlen(key));
    if (file) fclose(file);
    return kib < 0 ? -1 : 1024.0 * (double)kib;
}

static void print_values(const char *key, const double *values, int count, int stride) {
    printf("\"%s\": [", key);
    for (int i = 0; i < count; i++) printf("%s%.6g", i ? ", " : "", values[i * stride]);
    printf("]");
}

/* Whether `text` is a whole number of `least` to `most`. */
static int parse(const char *text, long least, long most, int *value) {
    char *end;
    long number = text ? strtol(text, &end, 10) : 0;
    if (!text || end == text || *end || number < least || number > most) return 0;
    *value = (int)number;
    return 1;
}

#endif
