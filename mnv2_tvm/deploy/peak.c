/* The FMA peak of one thread: a loop of nothing but fused multiply-adds on vector registers.
 *
 * VECTOR_BYTES is the width of a register and CHAINS the number of accumulators that do not depend
 * on each other: enough to hide the latency, few enough that they, the factor and the addend stay
 * in registers.
 */
#pragma STDC FP_CONTRACT ON

/* A chain with a variable index would live in memory, so no loop over chains may remain. */
#define EVERY_CHAIN _Pragma("clang loop unroll(full)") for (int i = 0; i < CHAINS; i++)

typedef float vec __attribute__((vector_size(VECTOR_BYTES)));

/* A function with vectors in its signature: for CPUs that are tuned to narrower vectors, clang
 * splits wide ones into halves, and spills them, where they are only locals. */
static vec fma_rounds(vec factor, vec addend, long rounds) {
    vec zero = {0}, chain[CHAINS];
    EVERY_CHAIN chain[i] = zero + (float)i; /* no two are the same */
    for (long round = 0; round < rounds; round++) {
        EVERY_CHAIN chain[i] = chain[i] * factor + addend;
    }
    vec sum = zero;
    EVERY_CHAIN sum += chain[i]; /* none can be left out */
    return sum;
}

/* `rounds` FMAs on every lane of every chain, from 0, 1, 2 ... on; returns the sum of them all. */
__attribute__((visibility("default"))) float mnv2_fma_rounds(float factor, float addend,
                                                             long rounds) {
    vec zero = {0};
    vec sum = fma_rounds(zero + factor, zero + addend, rounds);
    float total = 0;
    for (unsigned lane = 0; lane < sizeof(vec) / sizeof(float); lane++) total += sum[lane];
    return total;
}
