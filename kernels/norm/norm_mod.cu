// x[r, :]   = x[r, :] + gate[:] * y[r, :]                                      (where y is given; rounded to bf16 and written back)
// out[r, :] = (x[r, :] - mean) * rsqrt(var + eps) * (1 + scale[:]) + shift[:]  of x as it was stored; fp32 inside
//
// Rows below p.split (text) take the first vectors, the others (image) the second: both streams in one launch.
#include "norm_mod.h"

#include "../base/cuda.cuh"
#include "layer.cuh"

namespace {

DEVICE Job job_of(const NormModParams& p, unsigned row) {
    const bool is_first = row < p.split;
    Job job;
    job.x = reinterpret_cast<bf16*>(p.x) + row * p.x_stride;
    job.y = reinterpret_cast<const bf16*>(p.y) + row * p.y_stride;
    job.gate = reinterpret_cast<const bf16*>(is_first ? p.first_gate : p.second_gate);
    job.factor = reinterpret_cast<const bf16*>(is_first ? p.first_scale : p.second_scale);
    job.shift = reinterpret_cast<const bf16*>(is_first ? p.first_shift : p.second_shift);
    job.out = reinterpret_cast<bf16*>(p.out) + row * p.out_stride;
    return job;
}

template <int threads, int eights, bool updates>
DEVICE void norm_mod(const NormModParams& p) {
    if (blockIdx.x < p.rows) layer_norm_row<threads, eights, updates, Factor::OneMore>(job_of(p, blockIdx.x), p.eps);
}

template <bool updates>
DEVICE void norm_mod_any(const NormModParams& p) {
    if (blockIdx.x < p.rows) layer_norm_any_row<updates, Factor::OneMore>(job_of(p, blockIdx.x), p.columns, p.eps);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(128, 9) norm_mod_3072_bf16(const __grid_constant__ NormModParams p) { norm_mod<128, 3, false>(p); }
KERNEL(norm_mod_3072_bf16)

extern "C" __global__ void __launch_bounds__(128, 8) norm_mod_update_3072_bf16(const __grid_constant__ NormModParams p) { norm_mod<128, 3, true>(p); }
KERNEL(norm_mod_update_3072_bf16)

extern "C" __global__ void __launch_bounds__(threads_max) norm_mod_any_bf16(const __grid_constant__ NormModParams p) { norm_mod_any<false>(p); }
KERNEL(norm_mod_any_bf16)

extern "C" __global__ void __launch_bounds__(threads_max) norm_mod_update_any_bf16(const __grid_constant__ NormModParams p) { norm_mod_any<true>(p); }
KERNEL(norm_mod_update_any_bf16)
