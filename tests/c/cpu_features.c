/* Prints a 0 or 1 for each of MNV2_CPU_FEATURES. */
#include "cpu.c"

#include <stdio.h>

int main(void) {
    for (unsigned i = 0; i + 1 < sizeof needed / sizeof *needed; i++) printf("%d\n", has(&needed[i]));
    return 0;
}
