// Step 3. Keys and values go through shared memory, 16 bytes at a time, once for the 128 queries of a block; the query stays in registers. A load from
// shared memory now serves eight multiply-adds, and all lanes of a warp read the same address: a broadcast.
#include "../../../kernels/attention/attention.h"

#include "../../../kernels/base/cuda.cuh"
#include "../../../kernels/base/vec.cuh"

namespace {

constexpr int head_dim = 128, pieces = head_dim / 8, tile_keys = 32, threads = 128;

/// `count` rows of keys or values, then a barrier is due.
DEVICE void bring(uint4* tile_smem, uint64_t first, uint64_t row_stride, int count) {
    for (int i = threadIdx.x; i < count * pieces; i += threads)
        tile_smem[i] = load8(reinterpret_cast<const bf16*>(first) + i / pieces * row_stride + i % pieces * 8);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(threads) ladder_step3_bf16(const __grid_constant__ AttentionParams p) {
    SHARED_ARRAY(uint4, k_smem, tile_keys * pieces);
    SHARED_ARRAY(uint4, v_smem, tile_keys * pieces);
    const unsigned query = blockIdx.x * threads + threadIdx.x, head = blockIdx.y;
    const unsigned row = query < p.queries ? query : p.queries - 1;  // everybody helps to bring the keys
    const bf16* q = reinterpret_cast<const bf16*>(p.q) + row * p.q_row_stride + head * p.q_head_stride;  // [head_dim]
    uint4 query_rmem[pieces];
#pragma unroll
    for (int i = 0; i < pieces; i++) query_rmem[i] = load8(q + i * 8);
    float largest = -INFINITY, sum = 0.0f, out[head_dim] = {};
    for (unsigned first = 0; first < p.keys; first += tile_keys) {
        const int count = static_cast<int>(min(static_cast<unsigned>(tile_keys), p.keys - first));
        __syncthreads();
        bring(k_smem, p.k + (first * p.k_row_stride + head * p.k_head_stride) * 2, p.k_row_stride, count);
        bring(v_smem, p.v + (first * p.v_row_stride + head * p.v_head_stride) * 2, p.v_row_stride, count);
        __syncthreads();
#pragma unroll 1
        for (int key = 0; key < count; key++) {
            float score = 0.0f;
#pragma unroll
            for (int i = 0; i < pieces; i++) {
                float a[8], b[8];
                unpack8(query_rmem[i], a);
                unpack8(k_smem[key * pieces + i], b);
#pragma unroll
                for (int e = 0; e < 8; e++) score += a[e] * b[e];
            }
            score *= p.scale;
            const float before = largest;
            largest = fmaxf(largest, score);
            const float shrink = __expf(before - largest), weight = __expf(score - largest);
            sum = sum * shrink + weight;
#pragma unroll
            for (int i = 0; i < pieces; i++) {
                float b[8];
                unpack8(v_smem[key * pieces + i], b);
#pragma unroll
                for (int e = 0; e < 8; e++) out[i * 8 + e] = out[i * 8 + e] * shrink + weight * b[e];
            }
        }
    }
    if (query >= p.queries) return;
    bf16* target = reinterpret_cast<bf16*>(p.out) + query * p.out_row_stride + head * p.out_head_stride;
#pragma unroll
    for (int i = 0; i < pieces; i++) {
        float values[8];
#pragma unroll
        for (int e = 0; e < 8; e++) values[e] = out[i * 8 + e] / sum;
        store8(target + i * 8, pack8(values));
    }
}
KERNEL(ladder_step3_bf16)
