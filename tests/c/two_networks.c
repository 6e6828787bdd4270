/* two_networks LIBRARY INPUT OUTPUT LIBRARY INPUT OUTPUT: both in one process, in turns, with a
 * team of two threads each. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

struct network {
    int (*run)(const float *, float *, void *);
    float *input, *output;
    void *workspace;
    size_t outputs;
};

static int open_network(struct network *network, char **arguments) {
    void *library = dlopen(arguments[0], RTLD_NOW | RTLD_GLOBAL);
    if (!library) return puts(dlerror()), 1;
    network->run = (int (*)(const float *, float *, void *))dlsym(library, "mnv2_run");
    int (*set_threads)(int) = (int (*)(int))dlsym(library, "mnv2_set_threads");
    size_t inputs = ((size_t (*)(void))dlsym(library, "mnv2_input_size"))();
    size_t bytes = ((size_t (*)(void))dlsym(library, "mnv2_workspace_bytes"))();
    network->outputs = ((size_t (*)(void))dlsym(library, "mnv2_output_size"))();
    network->input = malloc(inputs * sizeof(float));
    network->output = malloc(network->outputs * sizeof(float));
    if (posix_memalign(&network->workspace, 64, bytes) || set_threads(2)) return 2;
    FILE *file = fopen(arguments[1], "rb");
    if (!file || fread(network->input, sizeof(float), inputs, file) != inputs) return 3;
    return fclose(file);
}

int main(int count, char **arguments) {
    if (count != 7) return 2;
    struct network networks[2];
    for (int i = 0; i < 2; i++)
        if (open_network(&networks[i], arguments + 1 + 3 * i)) return 3;
    if (networks[0].run == networks[1].run) return 4;
    for (int turn = 0; turn < 20; turn++) {
        struct network *network = &networks[turn % 2];
        if (network->run(network->input, network->output, network->workspace)) return 5;
    }
    for (int i = 0; i < 2; i++) {
        FILE *file = fopen(arguments[3 + 3 * i], "wb");
        size_t size = networks[i].outputs;
        if (!file || fwrite(networks[i].output, sizeof(float), size, file) != size) return 6;
        if (fclose(file)) return 6;
    }
    return 0;
}
