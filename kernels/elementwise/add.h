#ifndef LIGHTERAGE_ADD_H
#define LIGHTERAGE_ADD_H

#include <stdint.h>

/*
 * out[r, c] = a[r, c] + scale * b[r, c], computed in fp32, rounded once.
 */
struct AddParams {
    /* [rows, columns], rows a_stride apart */
    uint64_t a;
    /* [rows, columns], rows b_stride apart; stride 0 repeats one row */
    uint64_t b;
    /* [rows, columns], rows out_stride apart; may be a or b */
    uint64_t out;
    /* elements */
    uint64_t a_stride;
    /* elements */
    uint64_t b_stride;
    /* elements */
    uint64_t out_stride;
    /* rows */
    uint32_t rows;
    /* columns */
    uint32_t columns;
    /* factor on b */
    float scale;
    /* zero */
    uint32_t padding;
};

#endif
