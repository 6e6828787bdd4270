/* A process that has run with a team forks; the child has no such threads and runs all the same,
 * also if it first asks for a team of its own. */
#define _GNU_SOURCE
#include <mnv2.h>

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static float input[MNV2_INPUT_SIZE], parents[MNV2_OUTPUT_SIZE], childs[MNV2_OUTPUT_SIZE];

static void run_and_exit(void *workspace, int asks) {
    alarm(3); /* ends the child if it waits for ever */
    if (asks && mnv2_set_threads(2)) _exit(3);
    if (asks) usleep(10000); /* for the new thread to wait for its first run */
    if (mnv2_run(input, childs, workspace)) _exit(4);
    _exit(memcmp(parents, childs, sizeof childs) ? 5 : 0);
}

int main(void) {
    void *workspace = aligned_alloc(64, mnv2_workspace_bytes());
    if (mnv2_set_threads(2) || mnv2_run(input, parents, workspace)) return 2;
    for (int asks = 0; asks < 2; asks++) {
        pid_t child = fork();
        if (child == 0) run_and_exit(workspace, asks);
        int status = 0;
        if (waitpid(child, &status, 0) != child) return 6;
        if (!WIFEXITED(status)) return 7;
        if (WEXITSTATUS(status)) return WEXITSTATUS(status) + 10 * asks;
    }
    return 0;
}
