// Step 5, once: as step 4 for rows of 3072, whose 12 loads a lane are all issued before the first is waited for; the row stays in registers.
//
// The loop's length is known, so the compiler unrolls it and moves the loads to the front: 6 kB a warp under way instead of 512 bytes. x is read once.
#include "../../../kernels/norm/rms_norm.h"

#include "../../../kernels/base/cuda.cuh"
#include "../../../kernels/base/reduce.cuh"
#include "../../../kernels/base/vec.cuh"

namespace {

constexpr int eights = 12;

}  // namespace

extern "C" __global__ void __launch_bounds__(128) ladder_step5(const __grid_constant__ RmsNormParams p) {
    const unsigned row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= p.rows) return;
    const bf16* x = reinterpret_cast<const bf16*>(p.x) + row * p.x_stride + lane * 8;
    const bf16* weight = reinterpret_cast<const bf16*>(p.weight) + lane * 8;
    bf16* out = reinterpret_cast<bf16*>(p.out) + row * p.out_stride + lane * 8;
    Packed8 held[eights];
#pragma unroll
    for (int e = 0; e < eights; e++) held[e] = load8(x + e * 256);
    float sum = 0.0f;
#pragma unroll
    for (int e = 0; e < eights; e++) {
        float value[8];
        unpack8(held[e], value);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += value[i] * value[i];
    }
    const float inverse = rsqrtf(warp_sum(sum) / static_cast<float>(eights * 256) + p.eps);
#pragma unroll
    for (int e = 0; e < eights; e++) {
        float value[8], factor[8];
        unpack8(held[e], value);
        unpack8(load8(weight + e * 256), factor);
#pragma unroll
        for (int i = 0; i < 8; i++) value[i] = rounded(value[i] * inverse) * factor[i];
        store8(out + e * 256, pack8(value));
    }
}
KERNEL(ladder_step5)
