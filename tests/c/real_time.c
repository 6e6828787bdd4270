/* real_time CPU: a real-time thread and a worker that is none share a CPU. 77: not allowed here. */
#define _GNU_SOURCE
#include <mnv2.h>

#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

static float input[MNV2_INPUT_SIZE], output[MNV2_OUTPUT_SIZE];

int main(int count, char **arguments) {
    if (count != 2) return 2;
    int cpu = atoi(arguments[1]);
    void *workspace = aligned_alloc(64, (mnv2_workspace_bytes() + 63) / 64 * 64);
    if (mnv2_set_threads(2) || mnv2_pin(1, cpu) || mnv2_pin(0, cpu)) return 3;
    struct sched_param priority = {.sched_priority = 1};
    if (sched_setscheduler(0, SCHED_FIFO, &priority)) return 77;
    alarm(20); /* a run takes a millisecond; a second when the system must interfere */
    for (int run = 0; run < 100; run++)
        if (mnv2_run(input, output, workspace)) return 4;
    return 0;
}
