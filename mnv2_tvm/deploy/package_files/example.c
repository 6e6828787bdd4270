/* Classify raw float32 pixels [n, y, x, 3], normalised, with libmnv2. Build it in this folder:
 *
 *   cc example.c -Iinclude -Llib -lmnv2 -pthread -Wl,-rpath,'$ORIGIN/lib' -o example
 *
 * or, without the shared library: cc example.c -Iinclude lib/libmnv2.a -pthread -o example
 * Run it: ./example pixels.raw logits.raw
 */
#define _POSIX_C_SOURCE 200112L /* posix_memalign */
#include <mnv2.h>

#include <stdio.h>
#include <stdlib.h>

static int transfer(const char *path, const char *mode, float *values, size_t count) {
    FILE *file = fopen(path, mode);
    size_t done;
    if (!file) return 1;
    done = *mode == 'r' ? fread(values, sizeof *values, count, file)
                        : fwrite(values, sizeof *values, count, file);
    return fclose(file) || done != count;
}

int main(int count, char **arguments) {
    if (count != 3) return fprintf(stderr, "give a file of pixels and one for logits\n"), 2;
    float *input = malloc(mnv2_input_size() * sizeof *input);
    float *output = malloc(mnv2_output_size() * sizeof *output);
    void *workspace = NULL; /* one for each thread that calls mnv2_run */
    if (!input || !output || posix_memalign(&workspace, 64, mnv2_workspace_bytes())) return 3;
    if (transfer(arguments[1], "rb", input, mnv2_input_size())) return perror(arguments[1]), 4;

    int error = mnv2_run(input, output, workspace);
    if (error) return fprintf(stderr, "mnv2_run: error %d, see mnv2.h\n", error), 5;

    if (transfer(arguments[2], "wb", output, mnv2_output_size())) return perror(arguments[2]), 6;
    const int *shape = mnv2_output_shape();
    for (int image = 0; mnv2_output_rank() == 2 && image < shape[0]; image++) {
        const float *logits = output + image * shape[1];
        int best = 0;
        for (int i = 1; i < shape[1]; i++) best = logits[i] > logits[best] ? i : best;
        printf("image %d: class %d, logit %g\n", image, best, logits[best]);
    }
    free(input), free(output), free(workspace);
    return 0;
}
