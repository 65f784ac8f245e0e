// Step 1, naive: one thread a row.
//
// A warp's 32 loads go to 32 rows, each to a sector of 32 bytes of its own, and use 2 of them: while the other 15 elements wait for their turn, L1 would
// have to keep 32 sectors a warp for thousands of cycles. 4608 rows are 4608 threads on a card that wants 200 000.
#include "../../../kernels/norm/rms_norm.h"

#include "../../../kernels/base/cuda.cuh"
#include "../../../kernels/base/vec.cuh"

extern "C" __global__ void __launch_bounds__(128) ladder_step1(const __grid_constant__ RmsNormParams p) {
    const unsigned row = blockIdx.x * 128 + threadIdx.x;
    if (row >= p.rows) return;
    const bf16* x = reinterpret_cast<const bf16*>(p.x) + row * p.x_stride;
    const bf16* weight = reinterpret_cast<const bf16*>(p.weight);
    bf16* out = reinterpret_cast<bf16*>(p.out) + row * p.out_stride;
    float sum = 0.0f;
    for (unsigned c = 0; c < p.columns; c++) sum += __bfloat162float(x[c]) * __bfloat162float(x[c]);
    const float inverse = rsqrtf(sum / static_cast<float>(p.columns) + p.eps);
    for (unsigned c = 0; c < p.columns; c++) out[c] = __float2bfloat16_rn(rounded(__bfloat162float(x[c]) * inverse) * __bfloat162float(weight[c]));
}
KERNEL(ladder_step1)
