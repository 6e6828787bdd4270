/* shutdown CPU: the library's threads end, and a later run has them again, on their CPU. Callers
 * may run at the same time. */
#define _GNU_SOURCE
#include <mnv2.h>

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static float input[MNV2_INPUT_SIZE], first[MNV2_OUTPUT_SIZE];
static atomic_int stop, wrong;

static int threads(void) {
    int count = -2; /* . and .. */
    DIR *tasks = opendir("/proc/self/task");
    while (tasks && readdir(tasks)) count++;
    if (tasks) closedir(tasks);
    return count;
}

/* Who joins a thread is told of its end before the system removes it from the list. */
static int soon(int count) {
    for (int wait = 0; wait < 1000 && threads() != count; wait++) usleep(1000);
    return threads() == count;
}

static void run_and_compare(void *workspace) {
    float output[MNV2_OUTPUT_SIZE];
    if (mnv2_run(input, output, workspace)) wrong++;
    if (memcmp(output, first, sizeof first)) wrong++;
}

static void *keep_running(void *workspace) {
    while (!stop) run_and_compare(workspace);
    return NULL;
}

int main(int count, char **arguments) {
    if (count != 2) return 2;
    int cpu = atoi(arguments[1]);
    size_t bytes = (mnv2_workspace_bytes() + 63) / 64 * 64;
    void *workspace = aligned_alloc(64, bytes), *other = aligned_alloc(64, bytes);
    mnv2_shutdown(); /* nothing to end */
    if (mnv2_set_threads(3)) return 3;
    for (int thread = 2; thread >= 0; thread--)
        if (mnv2_pin(thread, cpu)) return 4;
    if (mnv2_run(input, first, workspace)) return 5;
    int with_workers = threads();
    mnv2_shutdown();
    if (!soon(with_workers - 2) || mnv2_get_threads() != 3) return 6;
    run_and_compare(workspace);
    pthread_t caller;
    if (pthread_create(&caller, NULL, keep_running, other)) return 7;
    for (int round = 0; round < 50; round++) {
        run_and_compare(workspace);
        mnv2_shutdown();
    }
    stop = 1;
    pthread_join(caller, NULL);
    mnv2_shutdown();
    free(workspace), free(other);
    return wrong ? 8 : 0;
}
