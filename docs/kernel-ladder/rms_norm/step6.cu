// Step 6, four warps a row: as step 5 with 128 threads for a row, three loads each; their sums meet in shared memory.
//
// No more bytes are under way, but four times as many warps hold them, in a third of the registers: while one waits for its loads, or for its chain of additions, others have
// instructions to issue. The price is one barrier a row.
#include "../../../kernels/norm/rms_norm.h"

#include "../../../kernels/base/cuda.cuh"
#include "../../../kernels/base/reduce.cuh"
#include "../../../kernels/base/vec.cuh"

namespace {

constexpr int eights = 3, threads = 128;

}  // namespace

extern "C" __global__ void __launch_bounds__(threads) ladder_step6(const __grid_constant__ RmsNormParams p) {
    SHARED_ARRAY(float, sums_smem, threads / 32);
    const unsigned row = blockIdx.x, column = threadIdx.x * 8;
    const bf16* x = reinterpret_cast<const bf16*>(p.x) + row * p.x_stride + column;
    const bf16* weight = reinterpret_cast<const bf16*>(p.weight) + column;
    bf16* out = reinterpret_cast<bf16*>(p.out) + row * p.out_stride + column;
    Packed8 held[eights];
#pragma unroll
    for (int e = 0; e < eights; e++) held[e] = load8(x + e * threads * 8);
    float sum = 0.0f;
#pragma unroll
    for (int e = 0; e < eights; e++) {
        float value[8];
        unpack8(held[e], value);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += value[i] * value[i];
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) sums_smem[threadIdx.x / 32] = sum;
    __syncthreads();
    // The warps in their order, in every thread.
    sum = sums_smem[0] + sums_smem[1] + sums_smem[2] + sums_smem[3];
    const float inverse = rsqrtf(sum / static_cast<float>(eights * threads * 8) + p.eps);
#pragma unroll
    for (int e = 0; e < eights; e++) {
        float value[8], factor[8];
        unpack8(held[e], value);
        unpack8(load8(weight + e * threads * 8), factor);
#pragma unroll
        for (int i = 0; i < 8; i++) value[i] = rounded(value[i] * inverse) * factor[i];
        store8(out + e * threads * 8, pack8(value));
    }
}
KERNEL(ladder_step6)
