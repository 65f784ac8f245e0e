// out[c, r] = x[r, c]
//
// Mapping: one block of 256 threads for 64 x 64 elements; a warp reads 32 neighbours of a row and writes 32 of a column, both 64 bytes side by side. In between they lie in
// shared memory in rows of 66 elements, 33 words: neighbours in a column are in different banks.
// Bytes: x once, out once: 4 rows columns. [16384, 512] at 3.0 TB/s: 11 us.
#include "transpose.h"

#include "../base/cuda.cuh"

namespace {

constexpr unsigned tile = 64, threads = 256, pitch = tile + 2;

}  // namespace

extern "C" __global__ void __launch_bounds__(threads) transpose_bf16(const __grid_constant__ TransposeParams p) {
    SHARED_ARRAY(bf16, tile_smem, tile * pitch);
    const bf16* x = reinterpret_cast<const bf16*>(p.x);
    bf16* out = reinterpret_cast<bf16*>(p.out);
    const unsigned first_column = blockIdx.x * tile, first_row = blockIdx.y * tile;
#pragma unroll
    for (unsigned i = threadIdx.x; i < tile * tile; i += threads) {
        const unsigned row = i / tile, column = i % tile;
        if (first_row + row < p.rows && first_column + column < p.columns)
            tile_smem[row * pitch + column] = x[(first_row + row) * p.x_stride + first_column + column];
    }
    __syncthreads();
#pragma unroll
    for (unsigned i = threadIdx.x; i < tile * tile; i += threads) {
        const unsigned row = i % tile, column = i / tile;
        if (first_row + row < p.rows && first_column + column < p.columns)
            out[(first_column + column) * p.out_stride + first_row + row] = tile_smem[row * pitch + column];
    }
}
KERNEL(transpose_bf16)
