/* A signal that the program blocks and waits for is not taken by a thread of the library. */
#define _POSIX_C_SOURCE 200809L
#include <mnv2.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static float input[MNV2_INPUT_SIZE], output[MNV2_OUTPUT_SIZE];

int main(void) {
    void *workspace = NULL;
    sigset_t set;
    int got = 0;
    if (posix_memalign(&workspace, 64, mnv2_workspace_bytes())) return 1;
    if (mnv2_set_threads(2) || mnv2_run(input, output, workspace)) return 2;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    if (sigprocmask(SIG_BLOCK, &set, NULL) || kill(getpid(), SIGTERM)) return 3;
    if (sigwait(&set, &got) || got != SIGTERM) return 4;
    mnv2_shutdown();
    if (mnv2_run(input, output, workspace)) return 5; /* the threads start again */
    free(workspace);
    puts("waited");
    return 0;
}
