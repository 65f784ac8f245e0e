// x[r, :]   = x[r, :] + gate[:] * y[r, :]                                      (where y is given; rounded to bf16 and written back)
// out[r, :] = (x[r, :] - mean) * rsqrt(var + eps) * (1 + scale[:]) + shift[:]  of x as it was stored; fp32 inside
//
// Rows below p.split (text) take the first vectors, the others (image) the second: both streams in one launch.
//
// Mapping: one block of 128 threads a row (row.cuh, layer.cuh): at 3072 columns three eights a thread, held in registers from the first load to the last store; one kernel for any other row,
// which reads it again from L1. Every access is 16 bytes wide; the vectors (6 kB each) come from L1. Two sums over the block, two barriers.
// It begins while the launch before it ends (sm_90 and newer): 93.4 % of an H100's copy rate in place of 84 %, with y 97.7 % in place of 93 %.
// One warp a row, all of it in its registers, was measured first: 45 %, with two warps a scheduler (223 registers) and 2343 instructions a row. This takes 1364, 1896 with y, by
// 28 and 32 warps (66 and 64 registers).
// Bytes: x and out once each, with y x twice and y once: 2 or 4 times 2 * rows * columns. FLUX, [4608, 3072]: 56.6 MB, 18.9 us at 3.0 TB/s; with y 113 MB, 38 us. In flight: 6 kB a
// block, 42 kB an SM, 96 kB with y: above the 15 kB that 3.0 TB/s needs.
#include "norm_mod.cuh"

namespace {

template <int threads, int eights, bool updates>
DEVICE void norm_mod(const NormModParams& p) {
    wait_for_launch_before();
    if (blockIdx.x < p.rows) layer_norm_row<threads, eights, updates, Factor::OneMore>(job_of(p, blockIdx.x), p.eps);
}

template <bool updates>
DEVICE void norm_mod_any(const NormModParams& p) {
    wait_for_launch_before();
    if (blockIdx.x < p.rows) layer_norm_any_row<updates, Factor::OneMore>(job_of(p, blockIdx.x), p.columns, p.eps);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(128, 7) norm_mod_3072_bf16(const __grid_constant__ NormModParams p) { norm_mod<128, 3, false>(p); }
KERNEL(norm_mod_3072_bf16)

extern "C" __global__ void __launch_bounds__(128, 8) norm_mod_update_3072_bf16(const __grid_constant__ NormModParams p) { norm_mod<128, 3, true>(p); }
KERNEL(norm_mod_update_3072_bf16)

extern "C" __global__ void __launch_bounds__(threads_max) norm_mod_any_bf16(const __grid_constant__ NormModParams p) { norm_mod_any<false>(p); }
KERNEL(norm_mod_any_bf16)

extern "C" __global__ void __launch_bounds__(threads_max) norm_mod_update_any_bf16(const __grid_constant__ NormModParams p) { norm_mod_any<true>(p); }
KERNEL(norm_mod_update_any_bf16)
