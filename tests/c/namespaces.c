/* Process 1 of a namespace runs with a team, then forks process 1 of a namespace inside: the child
 * has the same number and none of the threads. 77: no namespaces for this user. */
#define _GNU_SOURCE
#include <mnv2.h>

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static float input[MNV2_INPUT_SIZE], parents[MNV2_OUTPUT_SIZE], childs[MNV2_OUTPUT_SIZE];

static int in_namespace(int (*main_of_it)(void)) {
    if (unshare(CLONE_NEWPID)) return 77;
    pid_t child = fork();
    if (child == 0) _exit(main_of_it());
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) return 6;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 7;
}

static void *workspace;

static int run_inside(void) {
    alarm(5);
    if (getpid() != 1) return 2;
    if (mnv2_run(input, childs, workspace) || mnv2_set_threads(3)) return 3;
    if (mnv2_run(input, childs, workspace)) return 3;
    return memcmp(parents, childs, sizeof childs) ? 4 : 0;
}

static int run_and_fork(void) {
    workspace = aligned_alloc(64, (mnv2_workspace_bytes() + 63) / 64 * 64);
    if (getpid() != 1 || mnv2_set_threads(2)) return 5;
    for (int thread = 1; thread >= 0; thread--)
        if (mnv2_pin(thread, sched_getcpu())) return 5;
    if (mnv2_run(input, parents, workspace)) return 5;
    return in_namespace(run_inside);
}

int main(void) { return in_namespace(run_and_fork); }
