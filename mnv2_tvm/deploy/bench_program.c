/* mnv2_bench: a network with its weights, an input and the right answer to it in one static program.
 *
 * It checks the numbers first, then takes times. One JSON object goes to stdout, a summary to
 * stderr. Exit codes: 0 done, 1 wrong numbers, 2 a wrong option, 3 no memory or threads.
 */
#define _GNU_SOURCE
#include <mnv2.h>

#include "bench_data.h" /* layer_names and PROGRAM_*, generated */
#include "program.h"
#include "program_figures.h"

EMBED(embedded_input, PROGRAM_INPUT_FILE);
EMBED(embedded_output, PROGRAM_OUTPUT_FILE);

struct options {
    int runs, warmup, threads, deadline_s;
    int per_layer, only_layers;
};

static float output[MNV2_OUTPUT_SIZE];
static void *workspace;

static void run(double *layer_seconds) {
    const float *input = (const float *)embedded_input;
    if (layer_seconds)
        mnv2_profile(input, output, workspace, layer_seconds);
    else
        mnv2_run(input, output, workspace);
}

static void print_runs(double *times_ms, int count, double peak) {
    static const char *const names[] = {"median_ms", "p10_ms", "p90_ms", "min_ms"};
    static const double shares[] = {0.5, 0.1, 0.9, 0};
    printf(",\n \"peak_gflop_per_s\": %.6g,\n ", peak);
    print_values("times_ms", times_ms, count, 1); /* in their order */
    qsort(times_ms, (size_t)count, sizeof *times_ms, ascending);
    printf(",\n \"latency\": {");
    fprintf(stderr, "latency");
    for (int i = 0; i < 4; i++) {
        double value = percentile(times_ms, count, shares[i]);
        printf("%s\"%s\": %.6g", i ? ", " : "", names[i], value);
        fprintf(stderr, "  %s %.3f", names[i], value);
    }
    printf("}");
    fprintf(stderr, "  (%d runs)\nFMA peak %.1f GFLOP/s\n", count, peak);
}

/* `samples_us` is [run, layer]. */
static void print_layers(double *samples_us, int runs) {
    double *column = allocate((size_t)runs * sizeof *column);
    printf(",\n \"layers\": [");
    for (int layer = 0; layer < MNV2_LAYER_COUNT; layer++) {
        printf("%s\n  {\"name\": \"%s\", ", layer ? "," : "", layer_names[layer]);
        print_values("samples_us", samples_us + layer, runs, MNV2_LAYER_COUNT);
        printf("}");
        for (int i = 0; i < runs; i++) column[i] = samples_us[i * MNV2_LAYER_COUNT + layer];
        qsort(column, (size_t)runs, sizeof *column, ascending);
        fprintf(stderr, "%12.1f us  %s\n", percentile(column, runs, 0.5), layer_names[layer]);
    }
    printf("]");
}

static int usage(void) {
    fprintf(stderr,
            "usage: mnv2_bench [--runs N] [--warmup N] [--threads N] [--deadline SECONDS]\n"
            "       [--per-layer] [--only-layers]\n"
            "Check the numbers of %s, then time it: JSON on stdout, a summary on stderr.\n",
            PROGRAM_NAME);
    return EXIT_OPTION;
}

static int parse_options(char **words, struct options *options) {
    for (; *words; words++) {
        if (!strcmp(*words, "--per-layer") || !strcmp(*words, "--only-layers")) {
            options->per_layer = 1;
            options->only_layers |= !strcmp(*words, "--only-layers");
            continue;
        }
        const char *name = *words;
        int good = 0;
        if (!strcmp(name, "--runs")) good = parse(*++words, 1, 1000000, &options->runs);
        if (!strcmp(name, "--warmup")) good = parse(*++words, 0, 1000000, &options->warmup);
        if (!strcmp(name, "--threads"))
            good = parse(*++words, 1, MNV2_MAX_THREADS, &options->threads);
        if (!strcmp(name, "--deadline")) good = parse(*++words, 1, 1000000, &options->deadline_s);
        if (!good) return 0;
    }
    return 1;
}

/* The error against the reference, which ends the program where it is too large. */
static double check_numbers(void) {
    run(NULL);
    double error = relative_error(output, (const float *)embedded_output, MNV2_OUTPUT_SIZE);
    if (error <= PROGRAM_TOLERANCE) return error;
    fprintf(stderr,
            "mnv2_bench: wrong numbers: relative error %.1e against the reference; %.0e is allowed\n",
            error, PROGRAM_TOLERANCE);
    exit(EXIT_WRONG_NUMBERS);
}

static double *time_runs(int runs) {
    double *times_ms = allocate((size_t)runs * sizeof *times_ms);
    for (int i = 0; i < runs; i++) {
        double start = now();
        run(NULL);
        times_ms[i] = 1e3 * (now() - start);
    }
    return times_ms;
}

/* Microseconds [run, layer]. */
static double *time_layers(int runs) {
    double *samples_us = allocate((size_t)runs * MNV2_LAYER_COUNT * sizeof *samples_us);
    for (int i = 0; i < runs; i++) {
        double *sample = samples_us + i * MNV2_LAYER_COUNT;
        run(sample);
        for (int layer = 0; layer < MNV2_LAYER_COUNT; layer++) sample[layer] *= 1e6;
    }
    return samples_us;
}

int main(int count, char **words) {
    struct options options = {.runs = 100, .warmup = 10, .threads = mnv2_get_threads()};
    if (count < 1 || !parse_options(words + 1, &options)) return usage();
    signal(SIGILL, illegal);
    if (options.deadline_s) alarm((unsigned)options.deadline_s);
    double before = status_bytes("VmRSS:");
    workspace = allocate(mnv2_workspace_bytes());
    int refused = mnv2_set_threads(options.threads);
    if (refused == MNV2_ERROR_CPU) illegal(SIGILL); /* as a candidate's kernel would end */
    if (refused) no_threads(options.threads);
    double error = check_numbers();
    double resident = status_bytes("VmHWM:");

    double peak = 0, *times_ms = NULL;
    if (!options.only_layers) peak = peak_gflop_per_s(options.threads, PROGRAM_FLOP_PER_ROUND);
    for (int i = 0; i < options.warmup; i++) run(NULL);
    if (!options.only_layers) times_ms = time_runs(options.runs);
    double *samples_us = options.per_layer ? time_layers(options.runs) : NULL;
    if (!options.only_layers) peak = fmax(peak, peak_gflop_per_s(options.threads, PROGRAM_FLOP_PER_ROUND));

    fprintf(stderr, "%s, %d thread(s), relative error %.1e, peak resident %.1f MiB\n",
            PROGRAM_NAME, options.threads, error, resident / 0x1p20);
    printf("{\"program\": \"%s\", \"threads\": %d, \"warmup\": %d,\n", PROGRAM_NAME,
           options.threads, options.warmup);
    printf(" \"peak_rss_bytes\": %.0f, \"rss_growth_bytes\": %.0f,\n", resident,
           resident - before);
    printf(" \"relative_error\": %.3g", error);
    if (times_ms) print_runs(times_ms, options.runs, peak);
    if (samples_us) print_layers(samples_us, options.runs);
    printf("}\n");
    return fflush(stdout) ? EXIT_RESOURCE : 0;
}
