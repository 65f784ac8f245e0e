#ifndef LIGHTERAGE_SINUSOID_H
#define LIGHTERAGE_SINUSOID_H

#include <stdint.h>

/*
 * out[r, i] = cos(a), out[r, half + i] = sin(a) with a = values[r] * exp(-ln(10000) * i / half), half = columns / 2.
 * Every operation in fp32 and in this order (the values reach 3500, so a better exponential misses parity by 2e-5).
 */
struct SinusoidParams {
    /* fp32 [rows] */
    uint64_t values;
    /* [rows, columns], contiguous */
    uint64_t out;
    /* values */
    uint32_t rows;
    /* even */
    uint32_t columns;
};

#endif
