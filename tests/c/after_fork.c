/* A process that has run with a team forks; the child has no such threads and runs all the same. */
#define _GNU_SOURCE
#include <mnv2.h>

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static float input[MNV2_INPUT_SIZE], parents[MNV2_OUTPUT_SIZE], childs[MNV2_OUTPUT_SIZE];

int main(void) {
    void *workspace = aligned_alloc(64, mnv2_workspace_bytes());
    if (mnv2_set_threads(2) || mnv2_run(input, parents, workspace)) return 2;
    pid_t child = fork();
    if (child == 0) {
        alarm(3); /* ends the child if it waits for ever */
        if (mnv2_run(input, childs, workspace)) _exit(3);
        _exit(memcmp(parents, childs, sizeof childs) ? 4 : 0);
    }
    int status = 0;
    if (waitpid(child, &status, 0) != child) return 5;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 6;
}
