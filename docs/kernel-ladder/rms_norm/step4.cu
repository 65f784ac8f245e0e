// Step 4, wide: as step 3, but 16 bytes a load and a store. (Rows of whole eights, 16 bytes aligned: kernels/norm/rms_norm.cu does the others.)
//
// An eighth of the instructions, and each puts eight times the bytes under way. The row is still read twice, the second time from L1.
#include "../../../kernels/norm/rms_norm.h"

#include "../../../kernels/base/cuda.cuh"
#include "../../../kernels/base/reduce.cuh"
#include "../../../kernels/base/vec.cuh"

extern "C" __global__ void __launch_bounds__(128) ladder_step4(const __grid_constant__ RmsNormParams p) {
    const unsigned row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= p.rows) return;
    const bf16* x = reinterpret_cast<const bf16*>(p.x) + row * p.x_stride;
    const bf16* weight = reinterpret_cast<const bf16*>(p.weight);
    bf16* out = reinterpret_cast<bf16*>(p.out) + row * p.out_stride;
    float sum = 0.0f;
    for (unsigned c = lane * 8; c < p.columns; c += 256) {
        float value[8];
        unpack8(load8(x + c), value);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += value[i] * value[i];
    }
    const float inverse = rsqrtf(warp_sum(sum) / static_cast<float>(p.columns) + p.eps);
    for (unsigned c = lane * 8; c < p.columns; c += 256) {
        float value[8], factor[8];
        unpack8(load8(x + c), value);
        unpack8(load8(weight + c), factor);
#pragma unroll
        for (int i = 0; i < 8; i++) value[i] = rounded(value[i] * inverse) * factor[i];
        store8(out + c, pack8(value));
    }
}
KERNEL(ladder_step4)
