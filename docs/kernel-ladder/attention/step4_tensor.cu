// Step 4. Both products on the tensor cores (mma.sync m16n8k16), 16 queries a warp; 64 keys at a time, one buffer, rows as they come: the eight rows of
// an 8 x 8 matrix lie 256 bytes apart, all in the same banks, so ldmatrix takes eight passes. Step 5 is kernels/attention/attention_sm80.cu.
#include "../../../kernels/attention/attention.h"

#include "../../../kernels/base/cuda.cuh"
#include "../../../kernels/base/ptx.cuh"
#include "../../../kernels/base/reduce.cuh"
#include "../../../kernels/base/vec.cuh"

namespace {

constexpr int head_dim = 128, pieces = head_dim / 8, row_bytes = head_dim * 2, tile = 64, threads = 128;
constexpr float log2_e = 1.4426950408889634f;

/// 64 rows of one head from row `first` on; zeros behind the last.
DEVICE void bring(unsigned char* target, uint64_t source, uint64_t row_stride, unsigned first, unsigned count) {
    for (int i = threadIdx.x; i < tile * pieces; i += threads) {
        const unsigned row = first + i / pieces;
        const uint4 zeros = make_uint4(0, 0, 0, 0);
        reinterpret_cast<uint4*>(target)[i] = row < count ? load8(reinterpret_cast<const bf16*>(source) + row * row_stride + i % pieces * 8) : zeros;
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(threads) ladder_step4_bf16(const __grid_constant__ AttentionParams p) {
    DYNAMIC_SHARED(memory);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, tile_bytes = tile * row_bytes;
    const unsigned q_smem = shared_address(memory), k_smem = q_smem + tile_bytes, v_smem = k_smem + tile_bytes;
    const uint64_t head = blockIdx.y;
    bring(memory, p.q + head * p.q_head_stride * 2, p.q_row_stride, blockIdx.x * tile, p.queries);
    __syncthreads();
    unsigned q[head_dim / 16][4];
#pragma unroll
    for (int k = 0; k < head_dim / 16; k++) matrix_load4(q[k], q_smem + (warp * 16 + lane % 16) * row_bytes + (k * 2 + lane / 16) * 16);
    float out[head_dim / 8][4] = {}, largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
    for (unsigned first = 0; first < p.keys; first += tile) {
        __syncthreads();
        bring(memory + tile_bytes, p.k + head * p.k_head_stride * 2, p.k_row_stride, first, p.keys);
        bring(memory + 2 * tile_bytes, p.v + head * p.v_head_stride * 2, p.v_row_stride, first, p.keys);
        __syncthreads();
        float scores[tile / 8][4] = {};
#pragma unroll
        for (int k = 0; k < head_dim / 16; k++) {
#pragma unroll
            for (int n = 0; n < tile / 8; n += 2) {
                unsigned keys[4];
                matrix_load4(keys, k_smem + (n * 8 + lane % 8 + lane / 16 * 8) * row_bytes + (k * 2 + lane / 8 % 2) * 16);
                product_16816(scores[n], q[k], keys[0], keys[1]);
                product_16816(scores[n + 1], q[k], keys[2], keys[3]);
            }
        }
        unsigned weights[tile / 16][4];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float before = largest[r];
#pragma unroll
            for (int n = 0; n < tile / 8; n++) {
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const bool is_key = first + n * 8 + lane % 4 * 2 + e < p.keys;
                    scores[n][2 * r + e] = is_key ? scores[n][2 * r + e] * p.scale * log2_e : -INFINITY;
                    largest[r] = fmaxf(largest[r], scores[n][2 * r + e]);
                }
            }
            largest[r] = warp_max<4>(largest[r]);
            const float shrink = exp2_approx(before - largest[r]);
            sum[r] *= shrink;
#pragma unroll
            for (int n = 0; n < tile / 8; n++) {
                const float a = exp2_approx(scores[n][2 * r] - largest[r]), b = exp2_approx(scores[n][2 * r + 1] - largest[r]);
                sum[r] += a + b;
                weights[n / 2][n % 2 * 2 + r] = pack_bf16(a, b);
            }
#pragma unroll
            for (int i = 0; i < head_dim / 8; i++) {
                out[i][2 * r] *= shrink;
                out[i][2 * r + 1] *= shrink;
            }
        }
#pragma unroll
        for (int k = 0; k < tile / 16; k++) {
#pragma unroll
            for (int n = 0; n < head_dim / 8; n += 2) {
                unsigned values[4];
                matrix_load4_transposed(values, v_smem + (k * 16 + lane % 16) * row_bytes + (n + lane / 16) * 16);
                product_16816(out[n], weights[k], values[0], values[1]);
                product_16816(out[n + 1], weights[k], values[2], values[3]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float inverse = 1.0f / warp_sum<4>(sum[r]);
        const unsigned query = blockIdx.x * tile + warp * 16 + lane / 4 + r * 8;
        if (query >= p.queries) continue;
        bf16* target = reinterpret_cast<bf16*>(p.out) + query * p.out_row_stride + head * p.out_head_stride;  // [head_dim]
#pragma unroll
        for (int i = 0; i < head_dim / 8; i++)
            *reinterpret_cast<unsigned*>(target + i * 8 + lane % 4 * 2) = pack_bf16(out[i][2 * r] * inverse, out[i][2 * r + 1] * inverse);
    }
}
KERNEL(ladder_step4_bf16)
