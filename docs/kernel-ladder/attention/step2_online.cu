// Step 2. One pass instead of three: the largest score so far and the sum relative to it are carried along, and what was summed before is
// scaled down when a larger score comes (Milakov and Gimelshein 2018). Keys are read once.
#include "../../../kernels/attention/attention.h"

#include "../../../kernels/base/cuda.cuh"

namespace {

constexpr int head_dim = 128;

}  // namespace

extern "C" __global__ void __launch_bounds__(128) ladder_step2_bf16(const __grid_constant__ AttentionParams p) {
    const unsigned query = blockIdx.x * 128 + threadIdx.x, head = blockIdx.y;
    if (query >= p.queries) return;
    const bf16* q = reinterpret_cast<const bf16*>(p.q) + query * p.q_row_stride + head * p.q_head_stride;  // [head_dim]
    float largest = -INFINITY, sum = 0.0f, out[head_dim] = {};
    for (unsigned key = 0; key < p.keys; key++) {
        const bf16* k = reinterpret_cast<const bf16*>(p.k) + key * p.k_row_stride + head * p.k_head_stride;  // [head_dim]
        const bf16* v = reinterpret_cast<const bf16*>(p.v) + key * p.v_row_stride + head * p.v_head_stride;  // [head_dim]
        float score = 0.0f;
        for (int d = 0; d < head_dim; d++) score += __bfloat162float(q[d]) * __bfloat162float(k[d]);
        score *= p.scale;
        if (score > largest) {
            const float shrink = __expf(largest - score);
            largest = score;
            sum *= shrink;
#pragma unroll
            for (int d = 0; d < head_dim; d++) out[d] *= shrink;
        }
        const float weight = __expf(score - largest);
        sum += weight;
#pragma unroll
        for (int d = 0; d < head_dim; d++) out[d] += weight * __bfloat162float(v[d]);
    }
    bf16* target = reinterpret_cast<bf16*>(p.out) + query * p.out_row_stride + head * p.out_head_stride;
#pragma unroll
    for (int d = 0; d < head_dim; d++) target[d] = __float2bfloat16_rn(out[d] / sum);
}
KERNEL(ladder_step2_bf16)
