#ifndef LIGHTERAGE_NORM_MOD_H
#define LIGHTERAGE_NORM_MOD_H

#include <stdint.h>

/*
 * x[r, :] = x[r, :] + gate[:] * y[r, :]                        (only where y is given; x is written back)
 * out[r, :] = (x[r, :] - mean) * rsqrt(var + eps) * (1 + scale[:]) + shift[:]        (of x as it was stored)
 * AdaLN of DiT (Peebles & Xie 2022): LayerNorm without weights, then modulation. Rows before `split` take the first set of
 * vectors (text), the others the second (image): one launch for both streams. Statistics in fp32, two passes.
 */
struct NormModParams {
    /* [rows, columns], rows x_stride apart; read, and written where y is given */
    uint64_t x;
    /* [rows, columns], rows y_stride apart, or 0 */
    uint64_t y;
    /* [rows, columns], rows out_stride apart */
    uint64_t out;
    /* [columns]; rows below split */
    uint64_t first_shift;
    /* [columns] */
    uint64_t first_scale;
    /* [columns], or 0 without y */
    uint64_t first_gate;
    /* [columns]; rows from split on */
    uint64_t second_shift;
    /* [columns] */
    uint64_t second_scale;
    /* [columns], or 0 without y */
    uint64_t second_gate;
    /* elements */
    uint64_t x_stride;
    /* elements */
    uint64_t y_stride;
    /* elements */
    uint64_t out_stride;
    /* rows of x and out */
    uint32_t rows;
    /* columns of x and out */
    uint32_t columns;
    /* first row of the second range; 0 or rows: one range */
    uint32_t split;
    /* added to the variance */
    float eps;
};

#endif
