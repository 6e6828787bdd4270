/* guard INPUT OUTPUT THREADS: every buffer lies against a page that nobody may touch, once with
 * its end and once with its start, so that one byte too many is a crash. The workspace is full of
 * NaN before each run: what the network reads there it has written. */
#define _GNU_SOURCE
#include <mnv2.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* `bytes` between two forbidden pages, against the upper one or the lower one. */
static void *guarded(size_t bytes, int at_end) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t room = (bytes + page - 1) / page * page;
    char *memory =
        mmap(NULL, room + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + page, room, PROT_READ | PROT_WRITE)) exit(2);
    return memory + page + (at_end ? room - bytes : 0);
}

int main(int count, char **arguments) {
    if (count != 4 || mnv2_set_threads(atoi(arguments[3]))) return 3;
    float outputs[2][MNV2_OUTPUT_SIZE];
    for (int at_end = 0; at_end < 2; at_end++) {
        float *input = guarded(sizeof(float) * MNV2_INPUT_SIZE, at_end);
        float *output = guarded(sizeof(float) * MNV2_OUTPUT_SIZE, at_end);
        void *workspace = guarded(MNV2_WORKSPACE_BYTES, at_end);
        FILE *file = fopen(arguments[1], "rb");
        if (!file || fread(input, sizeof(float), MNV2_INPUT_SIZE, file) != MNV2_INPUT_SIZE)
            return 4;
        fclose(file);
        memset(output, 0xff, sizeof(float) * MNV2_OUTPUT_SIZE);
        memset(workspace, 0xff, MNV2_WORKSPACE_BYTES);
        if (mnv2_run(input, output, workspace)) return 5;
        memcpy(outputs[at_end], output, sizeof outputs[at_end]);
    }
    if (memcmp(outputs[0], outputs[1], sizeof outputs[0])) return 6;
    FILE *file = fopen(arguments[2], "wb");
    if (!file || fwrite(outputs[0], sizeof outputs[0], 1, file) != 1 || fclose(file)) return 7;
    return 0;
}
