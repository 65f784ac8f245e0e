#ifndef LIGHTERAGE_SOFTMAX_H
#define LIGHTERAGE_SOFTMAX_H

#include <stdint.h>

/*
 * out[r, c] = exp(scale * x[r, c] - m[r]) / sum_j exp(scale * x[r, j] - m[r]), m[r] the largest scale * x[r, j]
 * fp32 inside, rounded once. x is fp32 or has the element type of out.
 */
struct SoftmaxParams {
    /* [rows, columns], rows x_stride apart */
    uint64_t x;
    /* [rows, columns], rows out_stride apart; may be x where the types are the same */
    uint64_t out;
    /* elements */
    uint64_t x_stride;
    /* elements */
    uint64_t out_stride;
    /* rows of x and out */
    uint32_t rows;
    /* columns of x and out */
    uint32_t columns;
    /* factor on x */
    float scale;
    /* zero */
    uint32_t padding;
};

#endif
