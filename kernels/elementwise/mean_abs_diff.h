#ifndef LIGHTERAGE_MEAN_ABS_DIFF_H
#define LIGHTERAGE_MEAN_ABS_DIFF_H

#include <stdint.h>

/*
 * out = round(round(mean |a - b|) / round(mean |b|)): TeaCache's distance (Liu et al. 2024); round: to the type of a and b.
 * fp32 partial sums over fixed blocks of elements, added by halves.
 */
struct MeanAbsDiffParams {
    /* [count] */
    uint64_t a;
    /* [count] */
    uint64_t b;
    /* fp32 [1] */
    uint64_t out;
    /* fp32 [blocks, 2], blocks as mean_abs_diff.rs says: the sums of each block of elements */
    uint64_t workspace;
    /* elements, at least 1 */
    uint32_t count;
    /* zero */
    uint32_t padding;
};

#endif
