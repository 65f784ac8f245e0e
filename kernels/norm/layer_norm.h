#ifndef LIGHTERAGE_LAYER_NORM_H
#define LIGHTERAGE_LAYER_NORM_H

#include <stdint.h>

/*
 * out[r, c] = (x[r, c] - mean) * rsqrt(var + eps) * weight[c] + bias[c]
 * Statistics in fp32, two passes (Ba et al. 2016).
 */
struct LayerNormParams {
    /* [rows, columns], rows x_stride apart */
    uint64_t x;
    /* [columns] */
    uint64_t weight;
    /* [columns] */
    uint64_t bias;
    /* [rows, columns], rows out_stride apart; may be x */
    uint64_t out;
    /* elements */
    uint64_t x_stride;
    /* elements */
    uint64_t out_stride;
    /* rows of x and out */
    uint32_t rows;
    /* columns of x and out */
    uint32_t columns;
    /* added to the variance */
    float eps;
    /* zero */
    uint32_t padding;
};

#endif
