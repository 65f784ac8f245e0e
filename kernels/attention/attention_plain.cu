// out[i, h, :] = sum_j softmax_j(scale * q[i, h, :] . k[j, h, :] + bias(h, j - i)) * v[j, h, :]      (causal: j <= i)
//
// For what the tensor-core kernels do not do: any head dim, any stride, any alignment. All in fp32.
//
// Mapping: blockIdx.y = head; a warp owns 4 queries, a block up to 4 warps. The keys are taken 32 at a time, one a lane: each lane forms four products over
// head_dim, so that what it reads of its key serves four queries. The softmax is carried along (Milakov and Gimelshein 2018). Then a
// lane owns every 32nd element of head_dim: the 32 values are read row by row, and their sums go back to shared memory.
// Shared memory: a warp's queries and sums, 2 * 4 * head_dim (in whole eights) * 4 bytes, its 4 * 32 probabilities, and 4 bytes a distance for the bias, where they fit;
// where not, each bias is computed where it is needed.
//
// Bytes: q and out once, k and v once for every 4 * warps queries (from L1 and L2). FLOPs: 4 * queries * keys * head_dim * heads in fp32, bound by loads from
// L1 (a lane reads its own row: 32 lines a warp): about 5 % of the fp32 rate. 77 x 77 x 12 x 40 takes 6 us, 4096 x 4096 x 1 x 512 on an H100 (34 GFLOP) 10 ms.
#include "attention.h"

#include "../base/cuda.cuh"
#include "../base/ptx.cuh"
#include "../base/reduce.cuh"
#include "../base/vec.cuh"
#include "bias.cuh"

namespace {

constexpr int rows = 4;

/// A warp's part of shared memory.
struct Places {
    float* q;              // [rows][pitch], times scale * log2(e)
    float* out;            // [rows][pitch]
    float* probabilities;  // [rows][32]
    const float* bias;     // [2 * reach + 1], or null
    int pitch;             // head_dim in whole eights
};

/// One head's rows in global memory.
struct Rows {
    const bf16* first;  // [count, head_dim]
    uint64_t stride;    // elements
    int head_dim;
    bool is_aligned;

    DEVICE const bf16* row(int index) const { return first + index * stride; }
    /// Elements that go eight at a time.
    DEVICE int vector_elements() const { return is_aligned ? head_dim / 8 * 8 : 0; }
};

DEVICE Rows rows_of(uint64_t address, uint64_t head, uint64_t head_stride, uint64_t stride, unsigned head_dim) {
    const uint64_t first = address + head * head_stride * 2;
    return {reinterpret_cast<const bf16*>(first), stride, static_cast<int>(head_dim), (first | stride * 2) % 16 == 0};
}

/// The warp's queries and the room for its sums; queries behind the last one count as zeros.
DEVICE void begin(const Places& s, const Rows& q, int first_query, int queries, float factor, int lane) {
#pragma unroll
    for (int r = 0; r < rows; r++) {
        for (int d = lane; d < q.head_dim; d += 32) {
            s.q[r * s.pitch + d] = first_query + r < queries ? __bfloat162float(q.row(first_query + r)[d]) * factor : 0.0f;
            s.out[r * s.pitch + d] = 0.0f;
        }
    }
    __syncwarp();
}

/// score[r] = q[r] . key, for the lane's own key.
DEVICE void score(float (&score)[rows], const Places& s, const Rows& k, int key) {
    const bf16* source = k.row(key);
#pragma unroll
    for (int r = 0; r < rows; r++) score[r] = 0.0f;
    for (int d = 0; d < k.vector_elements(); d += 8) {
        float part[8];
        unpack8(load8(source + d), part);
#pragma unroll
        for (int r = 0; r < rows; r++) {
#pragma unroll
            for (int i = 0; i < 8; i += 4) {
                const float4 q = *reinterpret_cast<const float4*>(s.q + r * s.pitch + d + i);
                score[r] += q.x * part[i] + q.y * part[i + 1] + q.z * part[i + 2] + q.w * part[i + 3];
            }
        }
    }
    for (int d = k.vector_elements(); d < k.head_dim; d++) {
        const float part = __bfloat162float(source[d]);
#pragma unroll
        for (int r = 0; r < rows; r++) score[r] += s.q[r * s.pitch + d] * part;
    }
}

/// What the whole warp carries along for its queries.
struct State {
    float largest[rows], sum[rows], shrink[rows];
};

/// Turns the lane's scores into probabilities relative to the largest so far. Every query sees the first key, so that is finite.
DEVICE void soften(State& state, const Places& s, const float (&score)[rows], int lane) {
#pragma unroll
    for (int r = 0; r < rows; r++) {
        const float largest = fmaxf(state.largest[r], warp_max(score[r]));
        state.shrink[r] = exp2_approx(state.largest[r] - largest);
        state.largest[r] = largest;
        const float probability = exp2_approx(score[r] - largest);
        state.sum[r] = state.sum[r] * state.shrink[r] + warp_sum(probability);
        s.probabilities[r * 32 + lane] = probability;
    }
    __syncwarp();
}

/// out = out * shrink + probabilities v, over `count` keys.
DEVICE void weigh(const State& state, const Places& s, const Rows& v, int first_key, int count, int lane) {
    for (int d = lane; d < v.head_dim; d += 32) {
        float out[rows];
#pragma unroll
        for (int r = 0; r < rows; r++) out[r] = s.out[r * s.pitch + d] * state.shrink[r];
        for (int key = 0; key < count; key++) {
            const float value = __bfloat162float(v.row(first_key + key)[d]);
#pragma unroll
            for (int r = 0; r < rows; r++) out[r] += s.probabilities[r * 32 + key] * value;
        }
#pragma unroll
        for (int r = 0; r < rows; r++) s.out[r * s.pitch + d] = out[r];
    }
    __syncwarp();
}

DEVICE void store(const State& state, const Places& s, const AttentionParams& p, uint64_t head, int first_query, int lane) {
#pragma unroll
    for (int r = 0; r < rows; r++) {
        const int query = first_query + r;
        if (query >= static_cast<int>(p.queries)) return;
        bf16* out = reinterpret_cast<bf16*>(p.out) + query * p.out_row_stride + head * p.out_head_stride;  // [head_dim]
        const float inverse = 1.0f / state.sum[r];
        for (unsigned d = lane; d < p.head_dim; d += 32) out[d] = __float2bfloat16_rn(s.out[r * s.pitch + d] * inverse);
    }
}

/// Adds the bias and leaves out what a query does not see, and what is no key at all.
DEVICE void mask(float (&score)[rows], const AttentionParams& p, const Places& s, unsigned head, int reach, int first_query, int key) {
#pragma unroll
    for (int r = 0; r < rows; r++) {
        const int query = first_query + r, distance = key - query;
        if (p.bias_table != 0) score[r] += s.bias == nullptr ? bias_of(p, head, distance) : s.bias[min(max(distance, -reach), reach) + reach];
        if (key >= static_cast<int>(p.keys) || (p.causal != 0 && key > query)) score[r] = -INFINITY;
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(128, 4) attention_plain_bf16(const __grid_constant__ AttentionParams p) {
    DYNAMIC_SHARED(memory);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const int first_query = (blockIdx.x * warps + warp) * rows, queries = static_cast<int>(p.queries);
    const unsigned head = blockIdx.y;
    const int pitch = (static_cast<int>(p.head_dim) + 7) / 8 * 8, warp_floats = 2 * rows * pitch + rows * 32, reach = p.bias_table != 0 ? bias_reach(p) : 0;
    float* const own = reinterpret_cast<float*>(memory) + warp * warp_floats;
    float* const bias = reinterpret_cast<float*>(memory) + warps * warp_floats;
    const bool is_bias_held = p.bias_table != 0 && reach <= attention_plain_reach_max;
    const Places s = {own, own + rows * pitch, own + 2 * rows * pitch, is_bias_held ? bias : nullptr, pitch};
    const Rows q = rows_of(p.q, head, p.q_head_stride, p.q_row_stride, p.head_dim);
    const Rows k = rows_of(p.k, head, p.k_head_stride, p.k_row_stride, p.head_dim);
    const Rows v = rows_of(p.v, head, p.v_head_stride, p.v_row_stride, p.head_dim);
    if (is_bias_held) {
        fill_bias(bias, p, head, reach);
        __syncthreads();
    }
    if (first_query >= queries) return;
    begin(s, q, first_query, queries, p.scale * log2_e, lane);
    State state = {};
#pragma unroll
    for (int r = 0; r < rows; r++) state.largest[r] = -INFINITY;
    const int keys = static_cast<int>(p.keys), seen = p.causal != 0 ? min(keys, first_query + rows) : keys;
    for (int first_key = 0; first_key < seen; first_key += 32) {
        const int count = min(32, seen - first_key);
        float scores[rows];
        score(scores, s, k, first_key + min(lane, count - 1));
        mask(scores, p, s, head, reach, first_query, lane < count ? first_key + lane : keys);
        soften(state, s, scores, lane);
        weigh(state, s, v, first_key, count, lane);
    }
    store(state, s, p, head, first_query, lane);
}
KERNEL(attention_plain_bf16)
