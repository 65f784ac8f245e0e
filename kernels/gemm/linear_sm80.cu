// out[r, c] = residual[r, c] + gate[c] * activation(sum_k x[r, k] * weight[c, k] + bias[c])
//
// For every architecture from sm_80 on. fp32 sums, rounded to bf16 after the bias, the activation, the gate and the residual. Which of the tiles below runs is
// chosen in linear.rs from sizes and architecture; each element of out is one thread's sum over k in ascending order in all of them
// but `rows16`, so these give the same bits.
//
// Mapping, wide tiles: blockIdx.x = tile of out in the order of raster.cuh; 4 warps divide it, 2 x 2; a lane holds rows lane / 4 and lane / 4 + 8 of every
// 16 and columns lane % 4 * 2 + {0, 1} of every 8 (mma.m16n8k16). product_sm80.cuh has the ring of stages, epilogue.cuh the rest.
//   128 x 128: 48 KiB, 2 blocks an SM also where it has 100 KiB. A stage costs 8 KiB x 4 of ldmatrix, 256 clk at 128 bytes each, under 512 clk of
//   products (A100; 2048 on sm_86, sm_89 and sm_120), and 16 KiB of L2.
//   64 x 128, 64 x 64: where the larger ones leave processors idle.
// Mapping, `rows16` (at most 16 rows, bound by reading the weight once): blockIdx.x = 32 columns; each of 4 warps takes every fourth stage of 32 elements and has
// a ring of its own, without a barrier; their four sums are added in the order of the warps. 36 KiB under way a block, 24 of them of weight.
// `sums`: out is fp32 and gets the sums with their bias unrounded (scores of attention).
// `unaligned`: addresses or strides that are no multiples of 16 bytes; the same, brought by single loads.
//
// Bytes: out and residual once; x once for each strip of tiles across, weight once for each down, from L2 where the raster holds. FLOPs: 2 rows columns inner.
// Predicted for (4112, 21504, 3072), 543 GFLOP, 334 MB: A100 2.0 ms, RTX 4090 3.5 ms, both bound by products; one row times [18432, 3072], 113 MB of weight:
// A100 70 us, RTX 4090 122 us, H100 38 us at 3.0 TB/s. docs/kernels/linear.md has the model and other sizes.
#include "linear.cuh"
#include "product_sm80.cuh"
#include "raster.cuh"

namespace {

using namespace product;

template <class Tile, bool is_aligned, Result result = Result::Finished>
DEVICE void linear_tile(const LinearParams& p) {
    DYNAMIC_SHARED(smem);
    const int down = (p.rows + Tile::rows - 1) / Tile::rows, across = (p.columns + Tile::columns - 1) / Tile::columns;
    const TilePlace place = tile_place(blockIdx.x, down, across);
    const int64_t row = int64_t{place.row} * Tile::rows;
    const int column = place.column * Tile::columns, inner = static_cast<int>(p.inner), thread = threadIdx.x;
    MatrixRows<Tile::rows, Tile::threads, is_aligned> x(reinterpret_cast<const bf16*>(p.x), p.x_stride, row, p.rows, inner, thread);
    MatrixRows<Tile::columns, Tile::threads, is_aligned> weight(reinterpret_cast<const bf16*>(p.weight), p.weight_stride, column,
                                                                p.columns, inner, thread);
    multiply_tile<Tile, result>(x, weight, epilogue_of(p), smem, inner, row, column);
}

// ---- few rows

constexpr int split = 4;                              // warps that share the inner dimension
using FewRows = Tile<16, 32, 1, 1, 4>;                // of one warp
constexpr int partial_stride = FewRows::columns + 4;  // floats: rows of one column lie in different banks

/// The operand of warp `warp`: every fourth stage.
template <class Rows>
struct EveryFourth {
    Rows rows;
    DEVICE void copy(unsigned char* stage_smem, int lane) {
        rows.copy(stage_smem, lane);
        rows.skip(split - 1);
    }
};

DEVICE void put_partial(const Sums<FewRows>& sums, float* partial_smem, int lane) {
#pragma unroll
    for (int n = 0; n < FewRows::columns / 8; n++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float* target = partial_smem + (lane / 4 + r * 8) * partial_stride + n * 8 + lane % 4 * 2;
            *reinterpret_cast<float2*>(target) = make_float2(sums.value[0][n][2 * r], sums.value[0][n][2 * r + 1]);
        }
    }
}

/// Adds the warps' sums of eight columns in the order of the warps, and the bias.
DEVICE Packed8 add_partials(const unsigned char* smem, const Epilogue& e, int row, int piece, int first_column) {
    float value[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float sum = 0.0f;
#pragma unroll
        for (int warp = 0; warp < split; warp++) {
            const auto* partial = reinterpret_cast<const float*>(smem + warp * FewRows::ring_bytes);
            sum += partial[row * partial_stride + piece * 8 + i];
        }
        value[i] = sum + bias_of(e, first_column + piece * 8 + i);
    }
    return pack8(value);
}

template <bool is_aligned>
DEVICE void linear_few_rows(const LinearParams& p) {
    DYNAMIC_SHARED(smem);
    using Rows = MatrixRows<FewRows::rows, 32, is_aligned>;
    using Columns = MatrixRows<FewRows::columns, 32, is_aligned>;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * FewRows::columns, inner = static_cast<int>(p.inner);
    const Epilogue e = epilogue_of(p);
    EveryFourth<Rows> x{Rows(reinterpret_cast<const bf16*>(p.x), p.x_stride, 0, p.rows, inner, lane)};
    EveryFourth<Columns> weight{Columns(reinterpret_cast<const bf16*>(p.weight), p.weight_stride, column, p.columns, inner, lane)};
    x.rows.skip(warp);
    weight.rows.skip(warp);
    unsigned char* ring_smem = smem + warp * FewRows::ring_bytes;
    Sums<FewRows> sums = {};
    const int steps = (inner + depth - 1) / depth;
    sum_products<FewRows>(sums, x, weight, ring_smem, (steps - warp + split - 1) / split, lane);
    put_partial(sums, reinterpret_cast<float*>(ring_smem), lane);
    __syncthreads();
    const int row = threadIdx.x / (FewRows::columns / 8), piece = threadIdx.x % (FewRows::columns / 8);
    if (row < FewRows::rows) finish(e, add_partials(smem, e, row, piece, column), row, column + piece * 8);
}

using Tile128x128 = Tile<128, 128, 2, 2, 3>;
using Tile64x128 = Tile<64, 128, 2, 2, 4>;
using Tile64x64 = Tile<64, 64, 2, 2, 4>;

}  // namespace

extern "C" __global__ void __launch_bounds__(128, 2) linear_sm80_128x128_bf16(const __grid_constant__ LinearParams p) {
    linear_tile<Tile128x128, true>(p);
}
KERNEL(linear_sm80_128x128_bf16)

extern "C" __global__ void __launch_bounds__(128, 2) linear_sm80_64x128_bf16(const __grid_constant__ LinearParams p) {
    linear_tile<Tile64x128, true>(p);
}
KERNEL(linear_sm80_64x128_bf16)

extern "C" __global__ void __launch_bounds__(128, 3) linear_sm80_64x64_bf16(const __grid_constant__ LinearParams p) {
    linear_tile<Tile64x64, true>(p);
}
KERNEL(linear_sm80_64x64_bf16)

extern "C" __global__ void __launch_bounds__(128, 3) linear_sm80_64x64_unaligned_bf16(const __grid_constant__ LinearParams p) {
    linear_tile<Tile64x64, false>(p);
}
KERNEL(linear_sm80_64x64_unaligned_bf16)

extern "C" __global__ void __launch_bounds__(128, 2) linear_sm80_rows16_bf16(const __grid_constant__ LinearParams p) {
    linear_few_rows<true>(p);
}
KERNEL(linear_sm80_rows16_bf16)

extern "C" __global__ void __launch_bounds__(128, 2) linear_sm80_rows16_unaligned_bf16(const __grid_constant__ LinearParams p) {
    linear_few_rows<false>(p);
}
KERNEL(linear_sm80_rows16_unaligned_bf16)

extern "C" __global__ void __launch_bounds__(128, 2) linear_sums_sm80_128x128_bf16(const __grid_constant__ LinearParams p) {
    linear_tile<Tile128x128, true, Result::Sums>(p);
}
KERNEL(linear_sums_sm80_128x128_bf16)

extern "C" __global__ void __launch_bounds__(128, 3) linear_sums_sm80_64x64_bf16(const __grid_constant__ LinearParams p) {
    linear_tile<Tile64x64, true, Result::Sums>(p);
}
KERNEL(linear_sums_sm80_64x64_bf16)

extern "C" __global__ void __launch_bounds__(128, 3) linear_sums_sm80_64x64_unaligned_bf16(const __grid_constant__ LinearParams p) {
    linear_tile<Tile64x64, false, Result::Sums>(p);
}
KERNEL(linear_sums_sm80_64x64_unaligned_bf16)
