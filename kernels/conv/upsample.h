#ifndef LIGHTERAGE_UPSAMPLE_H
#define LIGHTERAGE_UPSAMPLE_H

#include <stdint.h>

/*
 * out[y, x, c] = in[y / 2, x / 2, c]: nearest neighbour, twice the size; channels last.
 */
struct UpsampleParams {
    /* [height, width, channels], contiguous */
    uint64_t x;
    /* [2 * height, 2 * width, channels], contiguous */
    uint64_t out;
    /* of the input */
    uint32_t height;
    /* of the input */
    uint32_t width;
    /* of both */
    uint32_t channels;
    /* zero */
    uint32_t padding;
};

#endif
