/* Runs one kernel: sizes of its arrays, the tasks and the arrays from stdin, its output to stdout.
 * ARGUMENTS, CALL and COUNT, of the arrays that it reads, are given on the command line. */
#include <stdio.h>
#include <stdlib.h>

int kernel(ARGUMENTS);

static void *filled(int bytes) {
    char *memory = malloc(bytes);
    if (!memory || fread(memory, 1, bytes, stdin) != (size_t)bytes) exit(2);
    return memory;
}

int main(void) {
    int sizes[COUNT + 1], tasks;
    void *arrays[COUNT + 1];
    if (fread(sizes, sizeof sizes, 1, stdin) != 1 || fread(&tasks, sizeof tasks, 1, stdin) != 1) return 3;
    for (int i = 0; i <= COUNT; i++) arrays[i] = filled(sizes[i]);
    if (kernel(CALL)) return 4;
    return fwrite(arrays[COUNT], 1, sizes[COUNT], stdout) != (size_t)sizes[COUNT];
}
