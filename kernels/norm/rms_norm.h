#ifndef LIGHTERAGE_RMS_NORM_H
#define LIGHTERAGE_RMS_NORM_H

#include <stdint.h>

/*
 * out[r, c] = x[r, c] * rsqrt(mean(x[r, :]^2) + eps) * weight[c]
 * Statistics in fp32 (Zhang & Sennrich 2019). The normalised value is rounded to the element type before the weight is
 * applied, as T5's and FLUX's reference code does.
 */
struct RmsNormParams {
    /* [rows, columns], rows x_stride apart */
    uint64_t x;
    /* [columns] */
    uint64_t weight;
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
    /* added to the mean square */
    float eps;
    /* zero */
    uint32_t padding;
};

#endif
