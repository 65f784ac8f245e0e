// out[r, c] = (x[r, c] - mean) * rsqrt(var + eps) * weight[c] + bias[c], statistics in fp32 in two passes
//
// Mapping: one warp a row, 4 rows a block, the row in registers (row.cuh): E eights of columns a lane, so one kernel for each of 1024, 2048 and
// 4096 columns at most, and one for wider rows that reads them again from L1 and L2. Every access is 16 bytes wide; weight and bias come from L1.
// Bytes: x once, out once. CLIP-L, [77, 768]: 0.24 MB, so 2 us for the launch; [4096, 4096]: 67 MB, 22 us at 3.0 TB/s.
#include "layer_norm.h"

#include "../base/cuda.cuh"
#include "row.cuh"

namespace {

constexpr unsigned warps = 4;

/// Addresses of one row.
struct Job {
    const bf16* x;       // [columns]
    const bf16* weight;  // [columns]
    const bf16* bias;    // [columns]
    bf16* out;           // [columns]
};

DEVICE Job job_of(const LayerNormParams& p, unsigned row) {
    return {reinterpret_cast<const bf16*>(p.x) + row * p.x_stride, reinterpret_cast<const bf16*>(p.weight),
            reinterpret_cast<const bf16*>(p.bias), reinterpret_cast<bf16*>(p.out) + row * p.out_stride};
}

/// Eight columns of the result.
DEVICE void scale(const Job& job, unsigned column, unsigned count, const Statistics& s, float (&x)[8]) {
    float weight[8], bias[8];
    load_eight(job.weight + column, count, weight);
    load_eight(job.bias + column, count, bias);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = (x[i] - s.mean) * s.inverse * weight[i] + bias[i];
    store_eight(job.out + column, count, x);
}

/// A row of at most 256 * eights columns.
template <int eights>
DEVICE void layer_norm(const LayerNormParams& p) {
    const unsigned row = blockIdx.x * warps + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= p.rows) return;
    const Job job = job_of(p, row);
    Packed8 x[eights];
    load_row(job.x, p.columns, lane, x);
    const Statistics s = statistics(x, p.columns, p.eps, lane);
#pragma unroll
    for (int e = 0; e < eights; e++) {
        const unsigned column = column_of(e, lane), count = count_of(column, p.columns);
        if (count == 0) continue;
        float value[8];
        unpack8(x[e], value);
        scale(job, column, count, s, value);
    }
}

/// A row of any length.
DEVICE void layer_norm_wide(const LayerNormParams& p) {
    const unsigned row = blockIdx.x * warps + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= p.rows) return;
    const Job job = job_of(p, row);
    const Statistics s = statistics(job.x, p.columns, p.eps, lane);
    for (unsigned column = lane * 8; column < p.columns; column += 256) {
        const unsigned count = count_of(column, p.columns);
        float value[8];
        load_eight(job.x + column, count, value);
        scale(job, column, count, s, value);
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(warps * 32) layer_norm_4_bf16(const __grid_constant__ LayerNormParams p) { layer_norm<4>(p); }
KERNEL(layer_norm_4_bf16)

extern "C" __global__ void __launch_bounds__(warps * 32) layer_norm_8_bf16(const __grid_constant__ LayerNormParams p) { layer_norm<8>(p); }
KERNEL(layer_norm_8_bf16)

extern "C" __global__ void __launch_bounds__(warps * 32) layer_norm_16_bf16(const __grid_constant__ LayerNormParams p) { layer_norm<16>(p); }
KERNEL(layer_norm_16_bf16)

extern "C" __global__ void __launch_bounds__(warps * 32) layer_norm_wide_bf16(const __grid_constant__ LayerNormParams p) { layer_norm_wide(p); }
KERNEL(layer_norm_wide_bf16)
