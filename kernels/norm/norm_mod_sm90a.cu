// out[r, :] = (x[r, :] - mean) * rsqrt(var + eps) * (1 + scale[:]) + shift[:], x first updated by gate * y where y is given: norm_mod.cu, with its roundings, by one warp a row.
//
// No GPU has run it yet, and norm_mod.rs does not choose it. The order of additions is another one, so the last bits are.
// Mapping: a block of 32 threads a row of 3072 columns, twelve eights a lane (layer.cuh, layer_norm_warp_row), held as pairs of bf16 in 48 registers and unpacked in each of
// three passes. Every access is 16 bytes wide, at multiples of 16 (norm_mod.rs). Two sums over the warp by shuffles; no shared memory, no barrier.
// All of x, and of y, is asked for before the first is used. In the SASS: 1247 instructions a row, 1726 with y; 72 and 122 registers, so 28 and 16 warps a multiprocessor.
// Bytes: as norm_mod.cu. In flight: 6 kB a warp, 168 kB an SM, 192 kB with y. FLUX, [4608, 3072]: predicted 20.1 to 20.8 us, with y 39.6 to 40.5 us (docs/kernels/norm_mod.md).
#include "norm_mod.cuh"

namespace {

template <bool updates>
DEVICE void norm_mod(const NormModParams& p) {
    wait_for_launch_before();
    if (blockIdx.x < p.rows) layer_norm_warp_row<12, updates, Factor::OneMore>(job_of(p, blockIdx.x), p.eps);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(32, 28) norm_mod_sm90a_warp_3072_bf16(const __grid_constant__ NormModParams p) { norm_mod<false>(p); }
KERNEL(norm_mod_sm90a_warp_3072_bf16)

extern "C" __global__ void __launch_bounds__(32, 16) norm_mod_sm90a_warp_update_3072_bf16(const __grid_constant__ NormModParams p) { norm_mod<true>(p); }
KERNEL(norm_mod_sm90a_warp_update_3072_bf16)
