// out[i, h, :] = sum_j softmax_j(scale * q[i, h, :] . k[j, h, :] + bias(h, j - i)) * v[j, h, :]      (causal: j <= i)
//
// For every architecture from sm_80 on; head dims 64 and 128; rows of 16-byte pieces, any stride. The keys are taken tile by tile and the softmax
// is carried along (Milakov and Gimelshein 2018; Dao 2023, algorithm 1). Scores, softmax and sums in fp32, probabilities rounded to bf16.
//
// Mapping: blockIdx.x = tile of queries, blockIdx.y = head. A warp owns 16 or 32 queries (one or two strips of 16), a block has 4 or 8 warps:
//   16x4: 64 queries a block, for few queries.   16x8: 128 queries, for cards whose tensor cores are slower than their shared memory.
//   32x4: 128 queries, head dim 128 without mask, for sm_80, 90 and 100, whose tensor cores outrun shared memory: a warp uses what it reads of
//   keys and values twice.
// A lane holds rows lane / 4 and lane / 4 + 8 of each strip and columns 2 * (lane % 4) + {0, 1} of every 8 (mma.m16n8k16).
// A tile has 64 keys, 32 in 32x4: its scores would not fit beside 128 sums, and two blocks then share a multiprocessor of sm_80.
// Keys and values have two buffers each: the next tile arrives by cp.async while this one is used, one barrier a tile. Rows of 16-byte pieces,
// piece c of row r at c ^ (r % 8): ldmatrix meets no bank twice. The output leaves through the queries' place, 16 bytes a lane.
// Shared memory: (block's queries + 4 tiles of keys) * head_dim * 2 bytes (96 KiB for 16x8 at 128), and 4 bytes a distance for the bias.
//
// Bytes: q and out once, k and v once for each tile of queries (from L2). FLOPs: 4 * queries * keys * head_dim * heads.
// Predicted for 4608 x 4608 x 24 x 128 (261 GFLOP), docs/kernels/attention.md: A100 1.3 ms, RTX 4090 1.8 ms, RTX 5090 1.4 ms, H100 0.9 ms.
#include "attention.h"

#include "../base/cuda.cuh"
#include "../base/ptx.cuh"
#include "../base/reduce.cuh"
#include "bias.cuh"

namespace {

constexpr int strip_rows = 16;

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

/// Where a lane's rows of ldmatrix lie: row `lane % 8` of some eight, pieces 2 i and 2 i + 1. As only the upper bits of 2 i meet those of the
/// row in the swizzle, four offsets serve all pieces of queries, keys and values; written out one by one they would take 24 registers.
struct LanePlaces {
    unsigned pair[4];

    DEVICE explicit LanePlaces(int lane) {
#pragma unroll
        for (int i = 0; i < 4; i++) pair[i] = ((2 * i) ^ (lane & 6)) << 4;
    }

    /// The part that does not depend on i: the row, and which piece of the pair.
    template <int head_dim>
    DEVICE static unsigned first(unsigned tile_smem, int row, int odd) {
        return tile_smem + row * (head_dim * 2) + ((odd ^ (row & 1)) << 4);
    }

    DEVICE unsigned operator()(unsigned first, int i) const { return first + pair[i % 4] + i / 4 * 128; }
};

/// Starts the copy of rows first .. first + tile_rows; rows behind the end become zeros. A thread takes one piece of every few rows: as these are
/// multiples of 8, its piece has the same place in all of them.
template <int head_dim, int tile_rows, int threads, int unrolled = 16>
DEVICE void copy_tile(unsigned tile_smem, const Rows& rows, int first) {
    constexpr int pieces = head_dim / 8, step = threads / pieces;
    static_assert(step % 8 == 0 && tile_rows % step == 0, "whole steps, on the swizzle's period");
    const int row = threadIdx.x / pieces, piece = threadIdx.x % pieces, left = rows.count - first - row;
    const unsigned target = piece_smem<head_dim>(tile_smem, row, piece);
    const bf16* source = rows.first + (first + row) * rows.stride + piece * 8;
    // Unrolled, the offsets of all steps stay in registers all along.
#pragma unroll unrolled
    for (int i = 0; i < tile_rows / step; i++) {
        copy_async16(target + i * step * head_dim * 2, source, i * step < left);
        source += step * rows.stride;
    }
}

/// What a lane carries along for one strip: its part of 16 output rows, and for its two rows the largest score and the sum of exponentials.
template <int head_dim>
struct Strip {
    float out[head_dim / 8][4];
    float largest[2], sum[2];
};

/// One strip's scores against a tile, as mma.m16n8k16 leaves them.
template <int tile_keys>
struct Scores {
    float of[tile_keys / 8][4];
};

/// The same as the a operands of the second product.
template <int tile_keys>
struct Probabilities {
    unsigned of[tile_keys / 16][4];
};

/// The a operands of a warp's queries. One strip stays in registers; two would not fit beside their sums and are read again for every tile.
template <int head_dim, int strips>
struct Queries {
    static constexpr bool are_held = strips == 1;
    unsigned held[are_held ? head_dim / 16 : 1][4];
    unsigned first;

    DEVICE void hold(const LanePlaces& places) {
        if constexpr (are_held)
#pragma unroll
            for (int k = 0; k < head_dim / 16; k++) matrix_load4(held[k], places(first, k));
    }

    DEVICE void get(unsigned (&a)[4], int strip, int k, const LanePlaces& places) const {
        if constexpr (are_held)
#pragma unroll
            for (int i = 0; i < 4; i++) a[i] = held[k][i];
        else
            matrix_load4(a, places(first, k) + strip * strip_rows * head_dim * 2);
    }
};

/// scores = q k^T for the warp's queries and the tile's 64 keys.
template <int head_dim, int strips, int tile_keys>
DEVICE void score(Scores<tile_keys> (&scores)[strips], const Queries<head_dim, strips>& queries, unsigned first, const LanePlaces& places) {
#pragma unroll
    for (int s = 0; s < strips; s++)
#pragma unroll
        for (int n = 0; n < tile_keys / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) scores[s].of[n][e] = 0.0f;
#pragma unroll
    for (int k = 0; k < head_dim / 16; k++) {
        unsigned a[strips][4];
#pragma unroll
        for (int s = 0; s < strips; s++) queries.get(a[s], s, k, places);
#pragma unroll
        for (int n = 0; n < tile_keys / 8; n += 2) {
            unsigned keys[4];
            matrix_load4(keys, places(first, k) + n * 8 * head_dim * 2);
#pragma unroll
            for (int s = 0; s < strips; s++) {
                product_16816(scores[s].of[n], a[s], keys[0], keys[1]);
                product_16816(scores[s].of[n + 1], a[s], keys[2], keys[3]);
            }
        }
    }
}

/// Where a strip meets a tile: the first query and the first key, as this lane sees them.
struct Corner {
    int query, key;

    DEVICE Corner(int first_query, int first_key, int lane) : query(first_query + lane / 4), key(first_key + lane % 4 * 2) {}
    DEVICE int key_of(int n, int e) const { return key + n * 8 + e % 2; }
    DEVICE int query_of(int e) const { return query + e / 2 * 8; }
};

/// scores = scores * factor + bias; the bias is that of the distance, whose ends stand for all beyond.
template <int tile_keys>
DEVICE void add_bias(Scores<tile_keys>& scores, const float* bias_smem, int reach, float factor, const Corner& corner) {
#pragma unroll
    for (int n = 0; n < tile_keys / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int distance = min(max(corner.key_of(n, e) - corner.query_of(e), -reach), reach);
            scores.of[n][e] = scores.of[n][e] * factor + bias_smem[distance + reach];
        }
}

/// Keys that a query does not see score minus infinity.
template <int tile_keys>
DEVICE void mask(Scores<tile_keys>& scores, int keys, bool is_causal, const Corner& corner) {
#pragma unroll
    for (int n = 0; n < tile_keys / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int key = corner.key_of(n, e);
            const bool is_seen = key < keys && (!is_causal || key <= corner.query_of(e));
            if (!is_seen) scores.of[n][e] = -INFINITY;
        }
}

/// Turns scores into probabilities relative to the largest score so far, and rescales what was summed before. Every query sees the first key,
/// so the largest score is finite from the first tile on.
template <int head_dim, int tile_keys>
DEVICE void soften(Probabilities<tile_keys>& probabilities, const Scores<tile_keys>& scores, Strip<head_dim>& strip, float factor) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float largest = strip.largest[r];
#pragma unroll
        for (int n = 0; n < tile_keys / 8; n++) largest = fmaxf(largest, fmaxf(scores.of[n][2 * r], scores.of[n][2 * r + 1]));
        largest = warp_max<4>(largest);
        const float offset = largest * factor, shrink = exp2_approx(strip.largest[r] * factor - offset);
        strip.largest[r] = largest;
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < tile_keys / 8; n++) {
            const float first = exp2_approx(scores.of[n][2 * r] * factor - offset);
            const float second = exp2_approx(scores.of[n][2 * r + 1] * factor - offset);
            sum += first + second;
            probabilities.of[n / 2][n % 2 * 2 + r] = pack_bf16(first, second);
        }
        strip.sum[r] = strip.sum[r] * shrink + sum;
#pragma unroll
        for (int i = 0; i < head_dim / 8; i++) {
            strip.out[i][2 * r] *= shrink;
            strip.out[i][2 * r + 1] *= shrink;
        }
    }
}

/// out += probabilities v.
template <int head_dim, int strips, int tile_keys>
DEVICE void weigh(Strip<head_dim> (&strip)[strips], const Probabilities<tile_keys> (&probabilities)[strips], unsigned first, const LanePlaces& places) {
#pragma unroll
    for (int k = 0; k < tile_keys / 16; k++) {
#pragma unroll
        for (int n = 0; n < head_dim / 8; n += 2) {
            unsigned values[4];
            matrix_load4_transposed(values, places(first, n / 2) + k * 16 * head_dim * 2);
#pragma unroll
            for (int s = 0; s < strips; s++) {
                product_16816(strip[s].out[n], probabilities[s].of[k], values[0], values[1]);
                product_16816(strip[s].out[n + 1], probabilities[s].of[k], values[2], values[3]);
            }
        }
    }
}

/// Divides by the sums and lays the rows into the warp's own part of the queries' place.
template <int head_dim>
DEVICE void lay_down(Strip<head_dim>& strip, unsigned char* rows_smem, int lane) {
    const unsigned first = shared_address(rows_smem);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float inverse = 1.0f / warp_sum<4>(strip.sum[r]);
#pragma unroll
        for (int i = 0; i < head_dim / 8; i++) {
            const unsigned offset = piece_smem<head_dim>(first, lane / 4 + r * 8, i) - first + lane % 4 * 4;
            *reinterpret_cast<unsigned*>(rows_smem + offset) = pack_bf16(strip.out[i][2 * r] * inverse, strip.out[i][2 * r + 1] * inverse);
        }
    }
}

/// Brings `rows` rows from shared memory to the output.
template <int head_dim, int rows>
DEVICE void store(const unsigned char* rows_smem, const AttentionParams& p, uint64_t head, int first_query, int lane) {
    constexpr int pieces = head_dim / 8;
    const unsigned first = shared_address(rows_smem);
    bf16* out = reinterpret_cast<bf16*>(p.out) + head * p.out_head_stride;  // [queries, head_dim]
#pragma unroll
    for (int i = 0; i < rows * pieces / 32; i++) {
        const int index = i * 32 + lane, row = index / pieces, piece = index % pieces, query = first_query + row;
        if (query >= static_cast<int>(p.queries)) continue;
        const uint4 value = *reinterpret_cast<const uint4*>(rows_smem + (piece_smem<head_dim>(first, row, piece) - first));
        *reinterpret_cast<uint4*>(out + query * p.out_row_stride + piece * 8) = value;
    }
}

template <int head_dim, int strips, int warps, int tile_keys>
DEVICE void attend(const AttentionParams& p) {
    DYNAMIC_SHARED(memory);
    constexpr int threads = warps * 32, warp_queries = strips * strip_rows, tile_queries = warps * warp_queries;
    constexpr int unrolled = strips == 1 ? 16 : 1;
    constexpr unsigned queries_bytes = tile_queries * head_dim * 2, tile_bytes = tile_keys * head_dim * 2;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // Two strips leave no registers for masks: those go to the kernels with one.
    const bool is_causal = strips == 1 && p.causal != 0, has_bias = strips == 1 && p.bias_table != 0;
    // Under a causal mask the last queries have the most keys: they begin first.
    const int tile_query = static_cast<int>(is_causal ? gridDim.x - 1 - blockIdx.x : blockIdx.x) * tile_queries;
    const int first_query = tile_query + warp * warp_queries, key_count = static_cast<int>(p.keys);
    const uint64_t head = blockIdx.y;
    const Rows q = rows_of(p.q, head, p.q_head_stride, p.q_row_stride, p.queries);
    const Rows k = rows_of(p.k, head, p.k_head_stride, p.k_row_stride, p.keys);
    const Rows v = rows_of(p.v, head, p.v_head_stride, p.v_row_stride, p.keys);
    const unsigned q_smem = shared_address(memory), k_smem = q_smem + queries_bytes, v_smem = k_smem + 2 * tile_bytes;
    float* const bias_smem = reinterpret_cast<float*>(memory + queries_bytes + 4 * tile_bytes);  // [2 * reach + 1]
    const int reach = has_bias ? bias_reach(p) : 0;
    const int keys_seen = is_causal ? min(key_count, tile_query + tile_queries) : key_count;
    const int tiles = (keys_seen + tile_keys - 1) / tile_keys;

    copy_tile<head_dim, tile_queries, threads>(q_smem, q, tile_query);
    copy_tile<head_dim, tile_keys, threads>(k_smem, k, 0);
    copy_tile<head_dim, tile_keys, threads>(v_smem, v, 0);
    copy_async_commit();
    if (has_bias) fill_bias(bias_smem, p, static_cast<unsigned>(head), reach);

    Queries<head_dim, strips> queries;
    const LanePlaces places(lane);
    queries.first = LanePlaces::first<head_dim>(q_smem, warp * warp_queries + lane % 16, lane / 16);
    const unsigned k_first = LanePlaces::first<head_dim>(k_smem, lane % 8 + lane / 16 * 8, lane / 8 % 2);
    const unsigned v_first = LanePlaces::first<head_dim>(v_smem, lane % 16, lane / 16);
    Strip<head_dim> strip[strips] = {};
#pragma unroll
    for (int s = 0; s < strips; s++) strip[s].largest[0] = strip[s].largest[1] = -INFINITY;
    const float scale = p.scale * log2_e, factor = has_bias ? 1.0f : scale;
    for (int tile = 0; tile < tiles; tile++) {
        const unsigned now = tile % 2 * tile_bytes, next = (tile + 1) % 2 * tile_bytes;
        const int first_key = tile * tile_keys;
        // This tile has landed, and everybody is done with the one whose place the next one takes.
        copy_async_wait<0>();
        __syncthreads();
        if (tile + 1 < tiles) {
            copy_tile<head_dim, tile_keys, threads, unrolled>(k_smem + next, k, first_key + tile_keys);
            copy_tile<head_dim, tile_keys, threads, unrolled>(v_smem + next, v, first_key + tile_keys);
        }
        copy_async_commit();
        if (tile == 0) queries.hold(places);
        // A warp behind the last query, or above the diagonal, has nothing to do here. With two strips the way around costs eight registers too many.
        if (strips == 1 && (first_query >= q.count || (is_causal && first_key >= first_query + warp_queries))) continue;
        Scores<tile_keys> scores[strips];
        Probabilities<tile_keys> probabilities[strips];
        score(scores, queries, k_first + now, places);
#pragma unroll
        for (int s = 0; s < strips; s++) {
            const Corner corner(first_query + s * strip_rows, first_key, lane);
            if (has_bias) add_bias(scores[s], bias_smem, reach, scale, corner);
            if (first_key + tile_keys > key_count || (is_causal && first_key + tile_keys > first_query))
                mask(scores[s], key_count, is_causal, corner);
            soften(probabilities[s], scores[s], strip[s], factor);
        }
        weigh(strip, probabilities, v_first + now, places);
    }
    // Each warp has read its own queries only, and writes over those.
    unsigned char* const rows_smem = memory + warp * warp_queries * head_dim * 2;
    __syncwarp();
#pragma unroll
    for (int s = 0; s < strips; s++) lay_down<head_dim>(strip[s], rows_smem + s * strip_rows * head_dim * 2, lane);
    __syncwarp();
    store<head_dim, warp_queries>(rows_smem, p, head, first_query, lane);
}

}  // namespace

#define ATTENTION(head_dim, strip_queries, warps, tile_keys)                                                       \
    extern "C" __global__ void __launch_bounds__(warps * 32)                                                       \
        attention_sm80_d##head_dim##_##strip_queries##x##warps##_bf16(const __grid_constant__ AttentionParams p) { \
        attend<head_dim, strip_queries / strip_rows, warps, tile_keys>(p);                                         \
    }                                                                                                              \
    KERNEL(attention_sm80_d##head_dim##_##strip_queries##x##warps##_bf16)

ATTENTION(64, 16, 4, 64)
ATTENTION(64, 16, 8, 64)
ATTENTION(128, 16, 4, 64)
ATTENTION(128, 16, 8, 64)
ATTENTION(128, 32, 4, 32)
