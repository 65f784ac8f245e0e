#ifndef LIGHTERAGE_TRANSPOSE_H
#define LIGHTERAGE_TRANSPOSE_H

#include <stdint.h>

/*
 * out[c, r] = x[r, c]
 */
struct TransposeParams {
    /* [rows, columns], rows x_stride apart */
    uint64_t x;
    /* [columns, rows], rows out_stride apart */
    uint64_t out;
    /* elements */
    uint64_t x_stride;
    /* elements */
    uint64_t out_stride;
    /* rows of x, columns of out */
    uint32_t rows;
    /* columns of x, rows of out */
    uint32_t columns;
};

#endif
