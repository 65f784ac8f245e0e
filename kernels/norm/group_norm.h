#ifndef LIGHTERAGE_GROUP_NORM_H
#define LIGHTERAGE_GROUP_NORM_H

#include <stdint.h>

/*
 * out[p, c] = act((x[p, c] - mean_g) * rsqrt(var_g + eps) * weight[c] + bias[c])
 * One image, channels last: group g holds channels g * channels / groups and so on, statistics over all its pixels
 * (Wu & He 2018), in fp32 partial sums of fixed blocks of pixels, added by halves, so that the result depends on no thread count; two passes.
 * act is SiLU where `silu` is 1.
 */
struct GroupNormParams {
    /* [pixels, channels], contiguous */
    uint64_t x;
    /* [channels] */
    uint64_t weight;
    /* [channels] */
    uint64_t bias;
    /* [pixels, channels], contiguous; may be x */
    uint64_t out;
    /* fp32: factors [channels], offsets [channels], then [blocks, groups, 2], blocks as group_norm.rs says: partial statistics of each block of pixels */
    uint64_t workspace;
    /* height * width */
    uint32_t pixels;
    /* channels of x and out */
    uint32_t channels;
    /* divides channels */
    uint32_t groups;
    /* 1: x * sigmoid(x) on the result */
    uint32_t silu;
    /* added to the variance */
    float eps;
    /* zero */
    uint32_t padding;
};

#endif
