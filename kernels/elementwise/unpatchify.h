#ifndef LIGHTERAGE_UNPATCHIFY_H
#define LIGHTERAGE_UNPATCHIFY_H

#include <stdint.h>

/*
 * image[c, y, x] = tokens[(y / 2) * (width / 2) + x / 2, c * 4 + (y % 2) * 2 + x % 2] * multiply + add: the inverse of patchify.
 */
struct UnpatchifyParams {
    /* [height / 2 * width / 2, channels * 4], contiguous */
    uint64_t tokens;
    /* [channels, height, width] by the strides below */
    uint64_t image;
    /* elements */
    uint64_t channel_stride;
    /* elements */
    uint64_t row_stride;
    /* elements */
    uint64_t column_stride;
    /* of the image */
    uint32_t channels;
    /* even */
    uint32_t height;
    /* even */
    uint32_t width;
    /* factor on every value */
    float multiply;
    /* added after it */
    float add;
    /* zero */
    uint32_t padding;
};

#endif
