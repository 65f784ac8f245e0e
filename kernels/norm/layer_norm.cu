// out[r, c] = (x[r, c] - mean) * rsqrt(var + eps) * weight[c] + bias[c], statistics in fp32 in two passes
//
// Mapping: one block a row (row.cuh, layer.cuh), the row in registers: kernels for 768 columns (96 threads of one eight each), 1024 (128 of one) and 3072 (128 of three),
// and one for any other row, that reads it again from L1. Every access is 16 bytes wide; weight and bias come from L1 and L2.
// Bytes: x once, out once. CLIP-L, [77, 768]: 0.24 MB, so 2 us for the launch; [4096, 3072]: 50 MB, 17 us at 3.0 TB/s.
#include "layer_norm.h"

#include "../base/cuda.cuh"
#include "layer.cuh"

namespace {

DEVICE Job job_of(const LayerNormParams& p, unsigned row) {
    Job job;
    job.x = reinterpret_cast<bf16*>(p.x) + row * p.x_stride;
    job.y = nullptr;
    job.gate = nullptr;
    job.factor = reinterpret_cast<const bf16*>(p.weight);
    job.shift = reinterpret_cast<const bf16*>(p.bias);
    job.out = reinterpret_cast<bf16*>(p.out) + row * p.out_stride;
    return job;
}

template <int threads, int eights>
DEVICE void layer_norm(const LayerNormParams& p) {
    wait_for_launch_before();
    if (blockIdx.x < p.rows) layer_norm_row<threads, eights, false, Factor::Whole>(job_of(p, blockIdx.x), p.eps);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(96) layer_norm_768_bf16(const __grid_constant__ LayerNormParams p) { layer_norm<96, 1>(p); }
KERNEL(layer_norm_768_bf16)

extern "C" __global__ void __launch_bounds__(128) layer_norm_1024_bf16(const __grid_constant__ LayerNormParams p) { layer_norm<128, 1>(p); }
KERNEL(layer_norm_1024_bf16)

extern "C" __global__ void __launch_bounds__(128, 7) layer_norm_3072_bf16(const __grid_constant__ LayerNormParams p) { layer_norm<128, 3>(p); }
KERNEL(layer_norm_3072_bf16)

extern "C" __global__ void __launch_bounds__(threads_max) layer_norm_any_bf16(const __grid_constant__ LayerNormParams p) {
    wait_for_launch_before();
    if (blockIdx.x < p.rows) layer_norm_any_row<false, Factor::Whole>(job_of(p, blockIdx.x), p.columns, p.eps);
}
KERNEL(layer_norm_any_bf16)
