/* The FMA peak: the loop of one thread, and the time that several take for it at once. */
#ifndef MNV2_PEAK_H
#define MNV2_PEAK_H

/* `rounds` FMAs on every lane of every chain, from 0, 1, 2 ... on; returns the sum of them all. */
float mnv2_fma_rounds(float factor, float addend, long rounds);

#define MNV2_PEAK_THREADS 64

/* Seconds from the start of the first of 1 to MNV2_PEAK_THREADS threads to the end of the last, or
 * less than 0 where so many cannot be had. */
double mnv2_fma_seconds(float factor, float addend, long rounds, int threads);

#endif
