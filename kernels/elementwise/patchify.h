#ifndef LIGHTERAGE_PATCHIFY_H
#define LIGHTERAGE_PATCHIFY_H

#include <stdint.h>

/*
 * tokens[(y / 2) * (width / 2) + x / 2, c * 4 + (y % 2) * 2 + x % 2] = image[c, y, x] * multiply + add
 * FLUX's packing: 2x2 patches, row-major, channel-major inside a token. The image's strides choose NCHW or NHWC.
 */
struct PatchifyParams {
    /* [channels, height, width] by the strides below */
    uint64_t image;
    /* [height / 2 * width / 2, channels * 4], contiguous */
    uint64_t tokens;
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
