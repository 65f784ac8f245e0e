// How the elementwise kernels share out a matrix: 256 threads a block, eight neighbouring columns a thread.
//
// A block takes `lanes` eights of each of 256 / lanes rows, where `lanes` is the smallest power of two that covers a row, at most 256: so narrow
// rows share a block, and the threads of a warp touch neighbouring memory. Blocks in x go along a row, in y down the rows; if there are more
// rows than the grid's y may count, a block goes on with the row that is a grid's height further down. `elementwise::grid` in
// elementwise/mod.rs makes the grid.
#pragma once
#include "cuda.cuh"

constexpr unsigned tile_threads = 256;

/// Eights that a block takes of a row: a power of two.
DEVICE unsigned tile_lanes(unsigned columns) {
    const unsigned eights = (columns - 1) / 8 + 1;
    return eights >= tile_threads ? tile_threads : 1u << (32 - __clz(static_cast<int>(eights - 1)));
}

/// Calls `each(row, column, count)` for every eight that is this thread's: `count` (1 to 8) columns of it exist.
template <class Each>
DEVICE void for_eights(unsigned rows, unsigned columns, Each each) {
    const unsigned lanes = tile_lanes(columns), rows_of_block = tile_threads / lanes;
    const unsigned eight = blockIdx.x * lanes + threadIdx.x % lanes;
    const unsigned column = eight * 8;
    if (column >= columns) return;
    const unsigned count = min(columns - column, 8u);
    for (unsigned row = blockIdx.y * rows_of_block + threadIdx.x / lanes; row < rows; row += gridDim.y * rows_of_block) each(row, column, count);
}
