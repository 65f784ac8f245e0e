// Step 2, coalesced: one block of 256 threads a row, the sum by halves in shared memory.
//
// A warp's loads are 64 neighbouring bytes: no byte is fetched in vain, and the second reading comes from L1. But a load moves 2 bytes, so 100 kB in
// flight would take 50 000 loads, and eight barriers stand between the first load and the first store.
#include "../../../kernels/norm/rms_norm.h"

#include "../../../kernels/base/cuda.cuh"
#include "../../../kernels/base/vec.cuh"

extern "C" __global__ void __launch_bounds__(256) ladder_step2(const __grid_constant__ RmsNormParams p) {
    SHARED_ARRAY(float, sums_smem, 256);
    const bf16* x = reinterpret_cast<const bf16*>(p.x) + blockIdx.x * p.x_stride;
    const bf16* weight = reinterpret_cast<const bf16*>(p.weight);
    bf16* out = reinterpret_cast<bf16*>(p.out) + blockIdx.x * p.out_stride;
    float sum = 0.0f;
    for (unsigned c = threadIdx.x; c < p.columns; c += 256) {
        const float value = __bfloat162float(x[c]);
        sum += value * value;
    }
    sums_smem[threadIdx.x] = sum;
    for (unsigned half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums_smem[threadIdx.x] += sums_smem[threadIdx.x + half];
    }
    __syncthreads();
    const float inverse = rsqrtf(sums_smem[0] / static_cast<float>(p.columns) + p.eps);
    for (unsigned c = threadIdx.x; c < p.columns; c += 256)
        out[c] = __float2bfloat16_rn(rounded(__bfloat162float(x[c]) * inverse) * __bfloat162float(weight[c]));
}
KERNEL(ladder_step2)
