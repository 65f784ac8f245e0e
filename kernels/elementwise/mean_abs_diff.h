#ifndef LIGHTERAGE_MEAN_ABS_DIFF_H
#define LIGHTERAGE_MEAN_ABS_DIFF_H

#include <stdint.h>

/*
 * out[0] = mean |a - b|, out[1] = mean |b|: TeaCache's distance is their quotient (Liu et al. 2024).
 * fp32 partial sums over fixed blocks of elements, added by halves.
 */
struct MeanAbsDiffParams {
    /* [count] */
    uint64_t a;
    /* [count] */
    uint64_t b;
    /* fp32 [2] */
    uint64_t out;
    /* fp32 [blocks, 2], blocks as mean_abs_diff.rs says: the sums of each block of elements */
    uint64_t workspace;
    /* elements, at least 1 */
    uint32_t count;
    /* zero */
    uint32_t padding;
};

#endif
