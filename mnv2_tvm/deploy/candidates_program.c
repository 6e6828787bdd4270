/* mnv2_candidates: kernels of one layer, each checked and timed in a process of its own.
 *
 * One line of JSON for each goes to stdout: its number with relative error and median time, without
 * the time where its numbers are wrong, or with the signal that ended it. An error that is no number
 * is null.
 */
#define _GNU_SOURCE
#include <stddef.h>
#include <sys/wait.h>

#include "program.h"

#include "candidates_data.h" /* EMBED(data), PROGRAM_*, and candidates with their calls, generated */

enum { SAMPLES = 7 };
static const double SAMPLE_S = 2e-3; /* long against the step of the clock */

static double time_runs(const struct candidate *candidate, float *y, float *scratch, long runs) {
    double start = now();
    for (long i = 0; i < runs; i++) candidate->run(y, scratch);
    return now() - start;
}

static double median_us(const struct candidate *candidate, float *y, float *scratch) {
    double seconds[SAMPLES];
    long runs = 1;
    double once;
    while ((once = time_runs(candidate, y, scratch, runs)) < SAMPLE_S)
        runs = once > 0 ? (long)((double)runs * fmin(10, 1.1 * SAMPLE_S / once)) + 1 : 10 * runs;
    for (int i = 0; i < SAMPLES; i++)
        seconds[i] = time_runs(candidate, y, scratch, runs) / (double)runs;
    qsort(seconds, SAMPLES, sizeof *seconds, ascending);
    return 1e6 * percentile(seconds, SAMPLES, 0.5);
}

/* An array of NaN: what a kernel leaves unwritten cannot pass for right. */
static float *nans(size_t count) {
    return memset(allocate(count * sizeof(float)), 0xff, count * sizeof(float));
}

/* The child's part: a line of its own, and the end. */
static void measure(int number) {
    const struct candidate *candidate = &candidates[number];
    float *y = nans(PROGRAM_Y_COUNT), *scratch = nans(candidate->scratch_floats);
    candidate->run(y, scratch);
    double error = relative_error(y, at(PROGRAM_REFERENCE), PROGRAM_Y_COUNT);
    printf("{\"candidate\": %d, \"relative_error\": ", number);
    printf(isfinite(error) ? "%.3g" : "null", error);
    if (error <= PROGRAM_TOLERANCE)
        printf(", \"median_us\": %.6g", median_us(candidate, y, scratch));
    printf("}\n");
    fflush(stdout);
    _exit(0);
}

int main(int count, char **words) {
    /* --deadline SECONDS for all of them, then --each SECONDS */
    if (count != 5 || atoi(words[2]) < 1 || atoi(words[4]) < 1) return EXIT_OPTION;
    alarm((unsigned)atoi(words[2]));
    for (int number = 0; number < PROGRAM_CANDIDATES; number++) {
        pid_t child = fork();
        if (child < 0) return EXIT_RESOURCE;
        if (child == 0) {
            alarm((unsigned)atoi(words[4]));
            measure(number);
        }
        int status;
        if (waitpid(child, &status, 0) != child) return EXIT_RESOURCE;
        if (WIFSIGNALED(status))
            printf("{\"candidate\": %d, \"signal\": %d}\n", number, WTERMSIG(status));
        else if (WEXITSTATUS(status)) /* no memory */
            return WEXITSTATUS(status);
        fflush(stdout);
    }
    return 0;
}
