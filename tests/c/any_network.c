/* A program for the shared library of any network. */
#define MNV2_ANY_NETWORK
#include <mnv2.h>

#include <stdio.h>

#ifdef MNV2_OUTPUT_SIZE
#error "a constant of one network"
#endif

int main(void) {
    printf("%d %lu\n", mnv2_output_rank(), (unsigned long)mnv2_output_size());
    return mnv2_output_shape()[0] < 1;
}
