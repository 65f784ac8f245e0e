// Step 1. The formula as it stands: one thread a query, three passes over the keys (the largest score, the sum, the output).
// Every multiply-add of a score loads two numbers: 2 bytes each, one lane at a time.
#include "../../../kernels/attention/attention.h"

#include "../../../kernels/base/cuda.cuh"

namespace {

constexpr int head_dim = 128;

DEVICE float score(const bf16* q, const bf16* k, float scale) {
    float sum = 0.0f;
    for (int d = 0; d < head_dim; d++) sum += __bfloat162float(q[d]) * __bfloat162float(k[d]);
    return sum * scale;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(128) ladder_step1_bf16(const __grid_constant__ AttentionParams p) {
    const unsigned query = blockIdx.x * 128 + threadIdx.x, head = blockIdx.y;
    if (query >= p.queries) return;
    const bf16* q = reinterpret_cast<const bf16*>(p.q) + query * p.q_row_stride + head * p.q_head_stride;  // [head_dim]
    const bf16* k = reinterpret_cast<const bf16*>(p.k) + head * p.k_head_stride;                           // [keys, head_dim]
    const bf16* v = reinterpret_cast<const bf16*>(p.v) + head * p.v_head_stride;                           // [keys, head_dim]
    float largest = -INFINITY, sum = 0.0f, out[head_dim] = {};
    for (unsigned key = 0; key < p.keys; key++) largest = fmaxf(largest, score(q, k + key * p.k_row_stride, p.scale));
    for (unsigned key = 0; key < p.keys; key++) sum += __expf(score(q, k + key * p.k_row_stride, p.scale) - largest);
    for (unsigned key = 0; key < p.keys; key++) {
        const float weight = __expf(score(q, k + key * p.k_row_stride, p.scale) - largest) / sum;
#pragma unroll
        for (int d = 0; d < head_dim; d++) out[d] += weight * __bfloat162float(v[key * p.v_row_stride + d]);
    }
    bf16* target = reinterpret_cast<bf16*>(p.out) + query * p.out_row_stride + head * p.out_head_stride;
#pragma unroll
    for (int d = 0; d < head_dim; d++) target[d] = __float2bfloat16_rn(out[d]);
}
KERNEL(ladder_step1_bf16)
