// Where FLUX's packing puts a pixel: token (y / 2) * (width / 2) + x / 2, column channel * 4 + (y % 2) * 2 + x % 2.
#pragma once
#include "../base/cuda.cuh"

/// Elements from the image's first to the pixel of a token's column.
template <class Params>
DEVICE uint64_t pixel_offset(const Params& p, unsigned token, unsigned column) {
    const unsigned patches = p.width / 2;
    const unsigned y = token / patches * 2 + column / 2 % 2, x = token % patches * 2 + column % 2;
    return column / 4 * p.channel_stride + y * p.row_stride + x * p.column_stride;
}
