#ifndef LIGHTERAGE_CAST_H
#define LIGHTERAGE_CAST_H

#include <stdint.h>

/*
 * out[i] = x[i] in out's element type, rounded to nearest even; a copy between equal types. Element types are named by their bit widths: 16 is bf16, 32 fp32.
 */
struct CastParams {
    /* [count] */
    uint64_t x;
    /* [count] */
    uint64_t out;
    /* elements */
    uint32_t count;
    /* 16 or 32 */
    uint32_t from_bits;
    /* 16 or 32 */
    uint32_t to_bits;
    /* zero */
    uint32_t padding;
};

#endif
