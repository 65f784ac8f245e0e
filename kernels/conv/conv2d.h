#ifndef LIGHTERAGE_CONV2D_H
#define LIGHTERAGE_CONV2D_H

#include <stdint.h>

/*
 * out[y, x, co] = residual[y, x, co] + bias[co] + sum_{ky, kx, ci} in[y * stride + ky - pad_top, x * stride + kx - pad_left, ci] * weight[co, ky, kx, ci]
 * One image, channels last; pixels outside of the input are zero. Accumulated in fp32.
 */
struct Conv2dParams {
    /* [height, width, in_channels], contiguous */
    uint64_t x;
    /* [out_channels, kernel, kernel, in_channels], contiguous */
    uint64_t weight;
    /* [out_channels], or 0 */
    uint64_t bias;
    /* [out_height, out_width, out_channels], contiguous, or 0 */
    uint64_t residual;
    /* [out_height, out_width, out_channels], contiguous; may be residual */
    uint64_t out;
    /* of the input */
    uint32_t height;
    /* of the input */
    uint32_t width;
    /* of the input */
    uint32_t in_channels;
    /* of the output */
    uint32_t out_height;
    /* of the output */
    uint32_t out_width;
    /* of the output */
    uint32_t out_channels;
    /* 1 or 3 */
    uint32_t kernel;
    /* 1 or 2 */
    uint32_t stride;
    /* zero rows above; what is missing below and at the right is zero too */
    uint32_t pad_top;
    /* zero columns at the left */
    uint32_t pad_left;
};

#endif
