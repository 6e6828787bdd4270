/* unload LIBRARY: close the library while its worker threads start and sleep. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

int main(int count, char **arguments) {
    if (count != 2) return 2;
    for (int round = 0; round < 100; round++) {
        void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
        if (!library) return puts(dlerror()), 3;
        int (*set_threads)(int) = (int (*)(int))dlsym(library, "mnv2_set_threads");
        if (!set_threads || set_threads(3)) return 4;
        dlclose(library);
    }
    usleep(10000);
    return 0;
}
