// For q and k, each head of each row, in place: x = round(x * rsqrt(mean(x^2) + eps)) * weight, then for each pair
//   (x[2p], x[2p + 1]) = (x[2p] cos[r, p] - x[2p + 1] sin[r, p], x[2p] sin[r, p] + x[2p + 1] cos[r, p]); fp32 inside, rounded once
//
// Rows below p.split (text) take the first pair of weights, the others (image) the second.
//
// Mapping: one block of 256 threads a row. A head of 16, 32, 64, 128 or 256 elements is 2 to 32 neighbouring lanes with eight elements (16 bytes)
// each, so a warp holds 16 to 1 heads and their sums are butterflies among those lanes; a block goes over the row's 2 * heads heads, and the
// angles of a lane's four pairs are loaded once for all of them. Any other head_dim: one warp a head, a pair a lane.
// Bytes: q and k once each way, cos and sin (fp32) once. FLUX, [4608, 24, 128]: 113 MB + 2.4 MB, 39 us at 3.0 TB/s.
#include "qk_norm_rope.h"

#include "../base/cuda.cuh"
#include "../base/reduce.cuh"
#include "../base/vec.cuh"

namespace {

constexpr unsigned threads = 256;

/// One head of q or k and the weight of its row range.
struct Head {
    bf16* x;             // [head_dim]
    const bf16* weight;  // [head_dim]
};

/// Head `index` of the row: those of q, then those of k.
DEVICE Head head_of(const QkNormRopeParams& p, unsigned row, unsigned index) {
    const bool is_first = row < p.split;
    if (index < p.heads) {
        return {reinterpret_cast<bf16*>(p.q) + row * p.q_row_stride + index * p.q_head_stride,
                reinterpret_cast<const bf16*>(is_first ? p.first_q_weight : p.second_q_weight)};
    }
    return {reinterpret_cast<bf16*>(p.k) + row * p.k_row_stride + (index - p.heads) * p.k_head_stride,
            reinterpret_cast<const bf16*>(is_first ? p.first_k_weight : p.second_k_weight)};
}

/// The angles of four pairs.
struct Angles {
    float cosine[4], sine[4];
};

DEVICE Angles angles_of(const QkNormRopeParams& p, unsigned row, unsigned pair) {
    const uint64_t first = static_cast<uint64_t>(row) * (p.head_dim / 2) + pair;
    const float* cosine = reinterpret_cast<const float*>(p.cos) + first;
    const float* sine = reinterpret_cast<const float*>(p.sin) + first;
    Angles angles;
    if (is_aligned16(cosine) && is_aligned16(sine)) {
        const float4 c = *reinterpret_cast<const float4*>(cosine), s = *reinterpret_cast<const float4*>(sine);
        return {{c.x, c.y, c.z, c.w}, {s.x, s.y, s.z, s.w}};
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        angles.cosine[i] = cosine[i];
        angles.sine[i] = sine[i];
    }
    return angles;
}

DEVICE float inverse_rms(float sum_of_squares, unsigned count, float eps) {
    return rsqrtf(sum_of_squares / static_cast<float>(count) + eps);
}

/// Heads of 8 * lanes elements.
template <int lanes>
DEVICE void norm_rope(const QkNormRopeParams& p) {
    const unsigned row = blockIdx.x, column = threadIdx.x % lanes * 8;
    if (row >= p.rows) return;
    const Angles angles = angles_of(p, row, column / 2);
    // Every lane takes part in every sum: the last heads may be fewer than the block has room for.
    for (unsigned first = 0; first < 2 * p.heads; first += threads / lanes) {
        const unsigned index = first + threadIdx.x / lanes;
        const bool is_head = index < 2 * p.heads;
        const Head head = head_of(p, row, is_head ? index : 0);
        float x[8] = {0, 0, 0, 0, 0, 0, 0, 0}, weight[8], sum = 0.0f;
        if (is_head) load_eight(head.x + column, 8, x);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += x[i] * x[i];
        const float inverse = inverse_rms(warp_sum<lanes>(sum), p.head_dim, p.eps);
        if (!is_head) continue;
        load_eight(head.weight + column, 8, weight);
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] *= inverse;
        round8(x);
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] *= weight[i];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float a = x[2 * i], b = x[2 * i + 1];
            x[2 * i] = a * angles.cosine[i] - b * angles.sine[i];
            x[2 * i + 1] = a * angles.sine[i] + b * angles.cosine[i];
        }
        store_eight(head.x + column, 8, x);
    }
}

/// Heads of any even number of elements: a warp a head, a pair a lane. A lane reads back only what it writes itself.
DEVICE void norm_rope_any(const QkNormRopeParams& p) {
    const unsigned row = blockIdx.x, lane = threadIdx.x % 32, pairs = p.head_dim / 2;
    if (row >= p.rows) return;
    const float* cosine = reinterpret_cast<const float*>(p.cos) + static_cast<uint64_t>(row) * pairs;
    const float* sine = reinterpret_cast<const float*>(p.sin) + static_cast<uint64_t>(row) * pairs;
    for (unsigned index = threadIdx.x / 32; index < 2 * p.heads; index += threads / 32) {
        const Head head = head_of(p, row, index);
        float sum = 0.0f;
        for (unsigned pair = lane; pair < pairs; pair += 32) {
            const float a = __bfloat162float(head.x[2 * pair]), b = __bfloat162float(head.x[2 * pair + 1]);
            sum += a * a + b * b;
        }
        const float inverse = inverse_rms(warp_sum(sum), p.head_dim, p.eps);
        for (unsigned pair = lane; pair < pairs; pair += 32) {
            bf16* x = head.x + 2 * pair;
            const float a = rounded(__bfloat162float(x[0]) * inverse) * __bfloat162float(head.weight[2 * pair]);
            const float b = rounded(__bfloat162float(x[1]) * inverse) * __bfloat162float(head.weight[2 * pair + 1]);
            x[0] = __float2bfloat16_rn(a * cosine[pair] - b * sine[pair]);
            x[1] = __float2bfloat16_rn(a * sine[pair] + b * cosine[pair]);
        }
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(threads) qk_norm_rope_d16_bf16(const __grid_constant__ QkNormRopeParams p) { norm_rope<2>(p); }
KERNEL(qk_norm_rope_d16_bf16)

extern "C" __global__ void __launch_bounds__(threads) qk_norm_rope_d32_bf16(const __grid_constant__ QkNormRopeParams p) { norm_rope<4>(p); }
KERNEL(qk_norm_rope_d32_bf16)

extern "C" __global__ void __launch_bounds__(threads) qk_norm_rope_d64_bf16(const __grid_constant__ QkNormRopeParams p) { norm_rope<8>(p); }
KERNEL(qk_norm_rope_d64_bf16)

extern "C" __global__ void __launch_bounds__(threads) qk_norm_rope_d128_bf16(const __grid_constant__ QkNormRopeParams p) { norm_rope<16>(p); }
KERNEL(qk_norm_rope_d128_bf16)

extern "C" __global__ void __launch_bounds__(threads) qk_norm_rope_d256_bf16(const __grid_constant__ QkNormRopeParams p) { norm_rope<32>(p); }
KERNEL(qk_norm_rope_d256_bf16)

extern "C" __global__ void __launch_bounds__(threads) qk_norm_rope_any_bf16(const __grid_constant__ QkNormRopeParams p) { norm_rope_any(p); }
KERNEL(qk_norm_rope_any_bf16)
