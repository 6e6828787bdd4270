/* A signal that the program waits for goes to the program, not to a thread of the library. */
#define _GNU_SOURCE
#include <mnv2.h>

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static float input[MNV2_INPUT_SIZE], output[MNV2_OUTPUT_SIZE];

int main(void) {
    void *workspace = aligned_alloc(64, (mnv2_workspace_bytes() + 63) / 64 * 64);
    if (mnv2_set_threads(2) || mnv2_pin(1, 0)) return 2; /* there is a worker, whatever the CPUs */
    if (mnv2_run(input, output, workspace)) return 3;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    if (sigprocmask(SIG_BLOCK, &set, NULL)) return 4;
    int signal = 0;
    if (kill(getpid(), SIGTERM) || sigwait(&set, &signal)) return 5;
    sigset_t blocked; /* and the caller's own mask is as it was */
    sigprocmask(SIG_BLOCK, NULL, &blocked);
    return signal != SIGTERM || sigismember(&blocked, SIGINT);
}
