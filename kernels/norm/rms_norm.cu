// out[r, c] = x[r, c] * rsqrt(mean(x[r, :]^2) + eps) * weight[c]
//
// fp32 inside; the normalised value is rounded to bf16 before the weight is applied, as T5's reference code does.
//
// Mapping: one block a row (row.cuh): for 4096 columns 256 threads of two eights each, in registers from load to store; one kernel for any other row,
// that reads it again from L1. Every access is 16 bytes wide; the weight comes from L1 and L2.
// Bytes: x once, out once: 2 * 2 * rows * columns. T5-XXL, [512, 4096]: 8.4 MB, 2.8 us at 3.0 TB/s besides the launch.
#include "rms_norm.h"

#include "../base/cuda.cuh"
#include "../base/ptx.cuh"
#include "row.cuh"

namespace {

DEVICE const bf16* x_of(const RmsNormParams& p, unsigned row) { return reinterpret_cast<const bf16*>(p.x) + row * p.x_stride; }

DEVICE bf16* out_of(const RmsNormParams& p, unsigned row) { return reinterpret_cast<bf16*>(p.out) + row * p.out_stride; }

DEVICE const bf16* weight_of(const RmsNormParams& p) { return reinterpret_cast<const bf16*>(p.weight); }

/// Eight columns of the result.
DEVICE void finish(float (&x)[8], float inverse, const float (&weight)[8]) {
    float normed[8];
#pragma unroll
    for (int i = 0; i < 8; i++) normed[i] = x[i] * inverse;
    unpack8(pack8(normed), x);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] *= weight[i];
}

/// A row of exactly 8 * eights * threads columns, all addresses multiples of 16.
template <int threads, int eights>
DEVICE void rms_norm(const RmsNormParams& p, unsigned row) {
    SUM_SLOTS(slots, threads);
    Packed8 held[eights], weights[eights];
    load_row<threads>(x_of(p, row), held);
    load_row<threads>(weight_of(p), weights);
    float x[eights][8];
    Sums squares;
#pragma unroll
    for (int e = 0; e < eights; e++) {
        unpack8(held[e], x[e]);
        squares.add_squares(x[e]);
    }
    const float mean = block_sum<threads>(squares.total(), slots) / (8.0f * eights * threads);
    const float inverse = rsqrtf(mean + p.eps);
#pragma unroll
    for (int e = 0; e < eights; e++) {
        float weight[8];
        unpack8(weights[e], weight);
        finish(x[e], inverse, weight);
        store_whole(out_of(p, row) + column_of<threads>(e), x[e]);
    }
}

/// A row of any length at any address.
DEVICE void rms_norm_any(const RmsNormParams& p, unsigned row) {
    SUM_SLOTS(slots, threads_max);
    Sums squares;
    for (unsigned column = threadIdx.x * 8; column < p.columns; column += blockDim.x * 8) {
        float x[8];
        load_eight(x_of(p, row) + column, min(p.columns - column, 8u), x);
        squares.add_squares(x);
    }
    const float mean = block_sum(squares.total(), slots) / static_cast<float>(p.columns);
    const float inverse = rsqrtf(mean + p.eps);
    for (unsigned column = threadIdx.x * 8; column < p.columns; column += blockDim.x * 8) {
        const unsigned here = min(p.columns - column, 8u);
        float x[8], weight[8];
        load_eight(x_of(p, row) + column, here, x);
        load_eight(weight_of(p) + column, here, weight);
        finish(x, inverse, weight);
        store_eight(out_of(p, row) + column, here, x);
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) rms_norm_4096_bf16(const __grid_constant__ RmsNormParams p) {
    wait_for_launch_before();
    if (blockIdx.x < p.rows) rms_norm<256, 2>(p, blockIdx.x);
}
KERNEL(rms_norm_4096_bf16)

extern "C" __global__ void __launch_bounds__(threads_max) rms_norm_any_bf16(const __grid_constant__ RmsNormParams p) {
    wait_for_launch_before();
    if (blockIdx.x < p.rows) rms_norm_any(p, blockIdx.x);
}
KERNEL(rms_norm_any_bf16)
