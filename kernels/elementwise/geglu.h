#ifndef LIGHTERAGE_GEGLU_H
#define LIGHTERAGE_GEGLU_H

#include <stdint.h>

/*
 * out[r, c] = gelu_tanh(x[r, c]) * x[r, columns + c]: the gated half and the linear half of one fused projection (Shazeer 2020).
 */
struct GegluParams {
    /* [rows, 2 * columns], rows x_stride apart */
    uint64_t x;
    /* [rows, columns], rows out_stride apart */
    uint64_t out;
    /* elements */
    uint64_t x_stride;
    /* elements */
    uint64_t out_stride;
    /* rows of x and out */
    uint32_t rows;
    /* columns of out */
    uint32_t columns;
};

#endif
