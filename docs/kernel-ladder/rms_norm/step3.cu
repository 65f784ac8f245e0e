// Step 3, no barriers: one warp a row, 4 rows a block, the sum by shuffles.
//
// Warps do not wait for each other any more: while one is at its sum another loads. Still 2 bytes a load.
#include "../../../kernels/norm/rms_norm.h"

#include "../../../kernels/base/cuda.cuh"
#include "../../../kernels/base/reduce.cuh"
#include "../../../kernels/base/vec.cuh"

extern "C" __global__ void __launch_bounds__(128) ladder_step3(const __grid_constant__ RmsNormParams p) {
    const unsigned row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= p.rows) return;
    const bf16* x = reinterpret_cast<const bf16*>(p.x) + row * p.x_stride;
    const bf16* weight = reinterpret_cast<const bf16*>(p.weight);
    bf16* out = reinterpret_cast<bf16*>(p.out) + row * p.out_stride;
    float sum = 0.0f;
    for (unsigned c = lane; c < p.columns; c += 32) {
        const float value = __bfloat162float(x[c]);
        sum += value * value;
    }
    const float inverse = rsqrtf(warp_sum(sum) / static_cast<float>(p.columns) + p.eps);
    for (unsigned c = lane; c < p.columns; c += 32)
        out[c] = __float2bfloat16_rn(rounded(__bfloat162float(x[c]) * inverse) * __bfloat162float(weight[c]));
}
KERNEL(ladder_step3)
