// Where FLUX's packing puts a pixel: token (y / 2) * (width / 2) + x / 2, column channel * 4 + (y % 2) * 2 + x % 2.
#pragma once
#include "../base/cuda.cuh"

/// Elements from the image's first to the upper left pixel of a token, channel 0.
template <class Params>
DEVICE uint64_t patch_offset(const Params& p, unsigned token) {
    const unsigned patches = p.width / 2;
    return token / patches * 2 * p.row_stride + token % patches * 2 * p.column_stride;
}

/// Elements from there to the pixel of a column.
template <class Params>
DEVICE uint64_t pixel_offset(const Params& p, unsigned column) {
    return column / 4 * p.channel_stride + (column % 4 >= 2 ? p.row_stride : 0) + (column % 2 == 1 ? p.column_stride : 0);
}
