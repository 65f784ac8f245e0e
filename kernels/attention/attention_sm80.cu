// out[i, h, :] = sum_j softmax_j(scale * q[i, h, :] . k[j, h, :]) * v[j, h, :]      (causal: j <= i)
//
// For every architecture from sm_80 on; head dims 64 and 128; no bias. The keys are taken 64 at a time and the softmax is carried along
// (Milakov and Gimelshein 2018; Dao 2023, algorithm 1). Scores, softmax and sums in fp32, probabilities rounded to bf16.
//
// Mapping: blockIdx.x = tile of 64 queries, blockIdx.y = head; 4 warps, 16 queries each; a lane holds rows lane / 4 and lane / 4 + 8 of its
// warp's strip and columns 2 * (lane % 4) + {0, 1} of every 8 (mma.m16n8k16). Keys and values have two buffers each: a tile
// arrives by cp.async while the one before is used. Rows of 16-byte pieces, piece c of row r at c ^ (r % 8): ldmatrix meets no bank twice.
// Shared memory: 5 * 64 * head_dim * 2 bytes (80 KiB at 128).
// Bytes: q and out once, k and v once for each tile of queries (from L2). FLOPs: 4 * queries * keys * head_dim * heads.
// Predicted on A100 (312 TFLOP/s, shared memory 256 clk against 256 clk of products a tile): 4608 x 4608 x 24 x 128 at 55 %: 1.5 ms.
#include "attention.h"

#include "../base/cuda.cuh"
#include "../base/ptx.cuh"
#include "../base/reduce.cuh"

namespace {

constexpr int warps = 4, threads = warps * 32, tile_queries = warps * 16, tile_keys = 64;
constexpr float log2_e = 1.4426950408889634f;

/// Rows of one head of q, k or v in global memory.
struct Rows {
    const bf16* first;  // [rows, head_dim]
    uint64_t stride;    // elements
    int count;
};

DEVICE Rows rows_of(uint64_t address, uint64_t head, uint64_t head_stride, uint64_t stride, unsigned count) {
    return {reinterpret_cast<const bf16*>(address) + head * head_stride, stride, static_cast<int>(count)};
}

/// Where piece `piece` (16 bytes) of row `row` lies in a tile.
template <int head_dim>
DEVICE unsigned piece_smem(unsigned tile_smem, int row, int piece) {
    return tile_smem + row * (head_dim * 2) + ((piece ^ (row & 7)) << 4);
}

/// Starts the copy of rows first .. first + 64; rows behind the end become zeros.
template <int head_dim>
DEVICE void copy_tile(unsigned tile_smem, const Rows& rows, int first) {
    constexpr int pieces = head_dim / 8;
    for (int i = threadIdx.x; i < 64 * pieces; i += threads) {
        const int row = i / pieces, piece = i % pieces;
        const bool is_inside = first + row < rows.count;
        const bf16* source = rows.first + (is_inside ? first + row : 0) * rows.stride + piece * 8;
        copy_async16(piece_smem<head_dim>(tile_smem, row, piece), source, is_inside);
    }
}

/// What a lane carries along: its part of 16 output rows, and for its two rows the largest score and the sum of exponentials.
template <int head_dim>
struct State {
    float out[head_dim / 8][4];
    float largest[2], sum[2];
};

using Scores = float[tile_keys / 8][4];
using Probabilities = unsigned[tile_keys / 16][4];

/// scores = q k^T for the warp's 16 queries and the tile's 64 keys.
template <int head_dim>
DEVICE void score(Scores& scores, const unsigned (&q)[head_dim / 16][4], unsigned k_smem, int lane) {
#pragma unroll
    for (int n = 0; n < tile_keys / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) scores[n][e] = 0.0f;
#pragma unroll
    for (int k = 0; k < head_dim / 16; k++) {
#pragma unroll
        for (int n = 0; n < tile_keys / 8; n += 2) {
            unsigned keys[4];
            matrix_load4(keys, piece_smem<head_dim>(k_smem, n * 8 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2));
            product_16816(scores[n], q[k], keys[0], keys[1]);
            product_16816(scores[n + 1], q[k], keys[2], keys[3]);
        }
    }
}

/// Keys that a query does not see score minus infinity.
DEVICE void mask(Scores& scores, const AttentionParams& p, int first_key, int first_query, int lane) {
    const bool is_last = first_key + tile_keys > static_cast<int>(p.keys);
    if (!is_last && p.causal == 0) return;
#pragma unroll
    for (int n = 0; n < tile_keys / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int key = first_key + n * 8 + lane % 4 * 2 + e % 2, query = first_query + lane / 4 + e / 2 * 8;
            const bool is_seen = key < static_cast<int>(p.keys) && (p.causal == 0 || key <= query);
            if (!is_seen) scores[n][e] = -INFINITY;
        }
    }
}

/// Turns scores into probabilities relative to the largest score so far, and rescales what was summed before.
template <int head_dim>
DEVICE void soften(Probabilities& probabilities, const Scores& scores, State<head_dim>& state, float factor) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float largest = state.largest[r];
#pragma unroll
        for (int n = 0; n < tile_keys / 8; n++) largest = fmaxf(largest, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
        largest = warp_max<4>(largest);
        // A row that has seen no key yet keeps minus infinity; its exponentials are then those of minus infinity less 0.
        const float offset = largest == -INFINITY ? 0.0f : largest * factor;
        const float shrink = exp2_approx(state.largest[r] * factor - offset);
        state.largest[r] = largest;
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < tile_keys / 8; n++) {
            const float first = exp2_approx(scores[n][2 * r] * factor - offset);
            const float second = exp2_approx(scores[n][2 * r + 1] * factor - offset);
            sum += first + second;
            probabilities[n / 2][n % 2 * 2 + r] = pack_bf16(first, second);
        }
        state.sum[r] = state.sum[r] * shrink + sum;
#pragma unroll
        for (int i = 0; i < head_dim / 8; i++) {
            state.out[i][2 * r] *= shrink;
            state.out[i][2 * r + 1] *= shrink;
        }
    }
}

/// out += probabilities v.
template <int head_dim>
DEVICE void weigh(State<head_dim>& state, const Probabilities& probabilities, unsigned v_smem, int lane) {
#pragma unroll
    for (int k = 0; k < tile_keys / 16; k++) {
#pragma unroll
        for (int n = 0; n < head_dim / 8; n += 2) {
            unsigned values[4];
            matrix_load4_transposed(values, piece_smem<head_dim>(v_smem, k * 16 + lane % 16, n + lane / 16));
            product_16816(state.out[n], probabilities[k], values[0], values[1]);
            product_16816(state.out[n + 1], probabilities[k], values[2], values[3]);
        }
    }
}

template <int head_dim>
DEVICE void store(State<head_dim>& state, const AttentionParams& p, uint64_t head, int first_query, int lane) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float inverse = 1.0f / warp_sum<4>(state.sum[r]);
        const int query = first_query + lane / 4 + r * 8;
        if (query >= static_cast<int>(p.queries)) continue;
        bf16* row = reinterpret_cast<bf16*>(p.out) + query * p.out_row_stride + head * p.out_head_stride;
#pragma unroll
        for (int i = 0; i < head_dim / 8; i++) {
            const unsigned pair = pack_bf16(state.out[i][2 * r] * inverse, state.out[i][2 * r + 1] * inverse);
            *reinterpret_cast<unsigned*>(row + i * 8 + lane % 4 * 2) = pair;
        }
    }
}

template <int head_dim>
DEVICE void attend(const AttentionParams& p) {
    DYNAMIC_SHARED(memory);
    constexpr unsigned tile_bytes = 64 * head_dim * 2;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int tile_query = blockIdx.x * tile_queries, first_query = tile_query + warp * 16;
    const uint64_t head = blockIdx.y;
    const Rows q = rows_of(p.q, head, p.q_head_stride, p.q_row_stride, p.queries);
    const Rows k = rows_of(p.k, head, p.k_head_stride, p.k_row_stride, p.keys);
    const Rows v = rows_of(p.v, head, p.v_head_stride, p.v_row_stride, p.keys);
    const unsigned q_smem = shared_address(memory), k_smem = q_smem + tile_bytes, v_smem = k_smem + 2 * tile_bytes;
    const int keys_seen = p.causal != 0 ? min(static_cast<int>(p.keys), tile_query + tile_queries) : static_cast<int>(p.keys);
    const int tiles = (keys_seen + tile_keys - 1) / tile_keys;

    copy_tile<head_dim>(q_smem, q, tile_query);
    copy_tile<head_dim>(k_smem, k, 0);
    copy_async_commit();
    copy_tile<head_dim>(v_smem, v, 0);
    copy_async_commit();
    copy_async_wait<1>();
    __syncthreads();
    unsigned queries[head_dim / 16][4];
#pragma unroll
    for (int i = 0; i < head_dim / 16; i++)
        matrix_load4(queries[i], piece_smem<head_dim>(q_smem, warp * 16 + lane % 16, i * 2 + lane / 16));

    State<head_dim> state = {};
    state.largest[0] = state.largest[1] = -INFINITY;
    for (int tile = 0; tile < tiles; tile++) {
        const unsigned now = tile % 2 * tile_bytes, next = (tile + 1) % 2 * tile_bytes;
        const bool has_next = tile + 1 < tiles;
        if (has_next) copy_tile<head_dim>(k_smem + next, k, (tile + 1) * tile_keys);
        copy_async_commit();
        Scores scores;
        score<head_dim>(scores, queries, k_smem + now, lane);
        mask(scores, p, tile * tile_keys, first_query, lane);
        Probabilities probabilities;
        soften<head_dim>(probabilities, scores, state, p.scale * log2_e);
        // This tile's values have landed; the next keys may still be under way.
        copy_async_wait<1>();
        __syncthreads();
        if (has_next) copy_tile<head_dim>(v_smem + next, v, (tile + 1) * tile_keys);
        copy_async_commit();
        weigh<head_dim>(state, probabilities, v_smem + now, lane);
        copy_async_wait<1>();
        __syncthreads();
    }
    store<head_dim>(state, p, head, first_query, lane);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(threads) attention_sm80_d64_bf16(const __grid_constant__ AttentionParams p) {
    attend<64>(p);
}
KERNEL(attention_sm80_d64_bf16)

extern "C" __global__ void __launch_bounds__(threads) attention_sm80_d128_bf16(const __grid_constant__ AttentionParams p) {
    attend<128>(p);
}
KERNEL(attention_sm80_d128_bf16)
