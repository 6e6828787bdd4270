/* mnv2_load: runs libmnv2.so, as `build` wrote it, on a machine with nothing installed.
 *
 * One JSON object goes to stdout. Exit codes: 0 done, 2 a wrong option or input, 3 no memory or
 * threads, 4 a library that cannot be loaded.
 */
#define _GNU_SOURCE
#define MNV2_ANY_NETWORK
#include <mnv2.h>

#include <stdint.h>

#include "elf_load.h"
#include "program.h"
#include "program_figures.h"

struct options {
    const char *files[2]; /* library and input */
    int given;            /* of these */
    int runs, warmup, threads, deadline_s;
    int output, layers, peak;
};

static int (*run_network)(const float *, float *, void *);
static int (*profile_network)(const float *, float *, void *, double *);
static float *input, *output;
static void *workspace;

static int usage(void) {
    fprintf(stderr,
            "usage: mnv2_load LIBRARY INPUT [--runs N] [--warmup N] [--threads N]\n"
            "       [--deadline SECONDS] [--output] [--layers] [--peak]\n"
            "Run a library on the float32 values of a file: JSON on stdout.\n");
    return EXIT_OPTION;
}

static int parse_options(char **words, struct options *options) {
    for (; *words; words++) {
        const char *name = *words;
        if (!strcmp(name, "--output")) {
            options->output = 1;
        } else if (!strcmp(name, "--layers")) {
            options->layers = 1;
        } else if (!strcmp(name, "--peak")) {
            options->peak = 1;
        } else if (*name != '-' && options->given < 2) {
            options->files[options->given++] = name;
        } else {
            int good = 0;
            if (!strcmp(name, "--runs")) good = parse(*++words, 0, 1000000, &options->runs);
            if (!strcmp(name, "--warmup")) good = parse(*++words, 0, 1000000, &options->warmup);
            if (!strcmp(name, "--threads"))
                good = parse(*++words, 1, MNV2_MAX_THREADS, &options->threads);
            if (!strcmp(name, "--deadline"))
                good = parse(*++words, 1, 1000000, &options->deadline_s);
            if (!good) return 0;
        }
    }
    return options->given == 2;
}

static size_t size_from(const char *name) {
    return ((size_t(*)(void))elf_symbol(name))();
}

/* Read exactly so many floats. */
static void read_input(const char *path, size_t count) {
    FILE *file = fopen(path, "rb");
    size_t found = file ? fread(input, sizeof *input, count, file) : 0;
    if (found != count || fgetc(file) != EOF) {
        fprintf(stderr, "%s does not hold the %zu values of an input\n", path, count);
        exit(EXIT_OPTION);
    }
    fclose(file);
}

/* Bits, so that what is no number arrives as well. */
static void print_output(size_t count) {
    printf(",\n \"output\": \"");
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, output + i, sizeof bits);
        printf("%08x", (unsigned)bits);
    }
    printf("\"");
}

static void print_runs(int runs) {
    double *times_ms = allocate((size_t)runs * sizeof *times_ms);
    for (int i = 0; i < runs; i++) {
        double start = now();
        run_network(input, output, workspace);
        times_ms[i] = 1e3 * (now() - start);
    }
    printf(",\n ");
    print_values("times_ms", times_ms, runs, 1);
}

/* Microseconds, all layers of a run after one another. */
static void print_layers(int runs) {
    int layers = ((int (*)(void))elf_symbol("mnv2_layer_count"))();
    double *samples = allocate((size_t)runs * (size_t)layers * sizeof *samples);
    for (int i = 0; i < runs; i++)
        profile_network(input, output, workspace, samples + (size_t)i * (size_t)layers);
    for (size_t i = 0; i < (size_t)runs * (size_t)layers; i++) samples[i] *= 1e6;
    printf(",\n ");
    print_values("layers_us", samples, runs * layers, 1);
}

int main(int count, char **words) {
    struct options options = {0};
    if (count < 1 || !parse_options(words + 1, &options)) return usage();
    signal(SIGILL, illegal);
    if (options.deadline_s) alarm((unsigned)options.deadline_s);
    double before = status_bytes("VmRSS:");
    elf_load(options.files[0]);
    *(void **)&run_network = elf_symbol("mnv2_run");
    *(void **)&profile_network = elf_symbol("mnv2_profile");
    size_t inputs = size_from("mnv2_input_size"), outputs = size_from("mnv2_output_size");
    input = allocate(inputs * sizeof *input);
    output = allocate(outputs * sizeof *output);
    workspace = allocate(size_from("mnv2_workspace_bytes"));
    read_input(options.files[1], inputs);
    if (!options.threads) options.threads = ((int (*)(void))elf_symbol("mnv2_get_threads"))();
    int refused = ((int (*)(int))elf_symbol("mnv2_set_threads"))(options.threads);
    if (refused == MNV2_ERROR_CPU) illegal(SIGILL);
    if (refused) no_threads(options.threads);

    double peak = options.peak ? peak_gflop_per_s(options.threads, PROGRAM_FLOP_PER_ROUND) : 0;
    if (options.output) run_network(input, output, workspace);
    double resident = status_bytes("VmHWM:");
    printf("{\"program\": \"mnv2_load\", \"threads\": %d, \"peak_rss_bytes\": %.0f, "
           "\"rss_growth_bytes\": %.0f",
           options.threads, resident, resident - before);
    if (options.output) print_output(outputs);
    for (int i = 0; i < options.warmup; i++) run_network(input, output, workspace);
    if (options.runs && !options.layers) print_runs(options.runs);
    if (options.runs && options.layers) print_layers(options.runs);
    if (options.peak) {
        peak = fmax(peak, peak_gflop_per_s(options.threads, PROGRAM_FLOP_PER_ROUND));
        printf(",\n \"peak_gflop_per_s\": %.6g", peak);
    }
    printf("}\n");
    return fflush(stdout) ? EXIT_RESOURCE : 0;
}
