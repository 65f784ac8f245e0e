// out[i, h, :] = sum_j softmax_j(scale * q[i, h, :] . k[j, h, :]) * v[j, h, :]
//
// Head dim 128, no mask, any number of queries and keys. As FlashAttention-3 (Shah et al. 2024): wgmma fed by TMA, a producer warp, two consumer
// warpgroups that take turns, and within each the exponentials of one tile under the products of two others.
//
// Mapping: persistent, gridDim.x blocks of 384 threads, one a multiprocessor. A tile is 128 queries of one head; heads follow each other, so that blocks
// at work at the same time share keys and values in L2. Thread 0 issues all loads; warpgroup 1 + w owns 64 queries of the tile. Keys are taken
// 128 at a time from the last, where the tail is masked, to the first.
//   S_j = q k_j^T (registers += shared x shared)  |  out += P_{j+1} v_{j+1} (registers += registers x shared) runs under the softmax of S_j
// Turns: while one warpgroup's products run the other one's softmax does (named barriers turn, turn + 1).
// The tiles that are left over after whole rounds are cut into pieces along the keys, the same number of key blocks for everybody (stream-K, Osama et
// al. 2023); a piece leaves its sums, fp32, in the workspace, and attention_sm90a_join adds them in the order of the keys. Sizes and the
// number of blocks alone decide that: the same bits every run.
// Maps: q, k, v (boxes of 64 columns x 128 rows), out (64 x 64), each [rows, heads, 128] with a 128-byte swizzle. The output leaves by stmatrix and TMA,
// which leaves out rows behind the last.
// Shared memory: q, two stages of k and v, out: 6 * 32 KiB, and mbarriers.
//
// Bytes: q and out once, k and v once for each tile of queries (from L2). FLOPs: 4 * queries * keys * 128 * heads.
// Predicted on H100 SXM for 4608 x 4608 x 24: a block of keys costs a tile 2048 clk of products; FlashAttention-3 takes 1.64 us for it (632 TFLOP/s over
// 7 rounds of 36 blocks, pytorch issue 142132), 71 % of the products' rate. So 7 * 36 * 1.64 = 413 us with whole tiles; cut, everybody has
// 236 blocks: 387 us, and 6 us for 203 pieces of 65 KiB: 393 us, 664 TFLOP/s. docs/kernels/attention.md.
#include "attention.h"

#include "../base/cuda.cuh"
#include "../base/ptx.cuh"
#include "../base/reduce.cuh"
#include "bias.cuh"
#include "pieces.cuh"

namespace {

constexpr int head_dim = 128, stages = 2, group_queries = 64, consumer_threads = 256;
constexpr unsigned tile_bytes = 128 * head_dim * 2, half_bytes = tile_bytes / 2;
constexpr int turn = 2, group_barrier = 4;

/// Addresses in shared memory. A tile is two halves of 64 columns, rows of 128 bytes.
struct Places {
    unsigned q, k, v, out, q_full, q_empty, k_full, k_empty, v_full, v_empty;
};

DEVICE Places places_of(unsigned base) {
    const unsigned k = base + tile_bytes, v = k + stages * tile_bytes, out = v + stages * tile_bytes, m = out + tile_bytes;
    return {base, k, v, out, m, m + 8, m + 16, m + 16 + 8 * stages, m + 16 + 16 * stages, m + 16 + 24 * stages};
}

DEVICE void begin(const Places& s) {
    if (threadIdx.x == 0) {
        mbarrier_init(s.q_full, 1);
        mbarrier_init(s.q_empty, 2);
        for (int i = 0; i < stages; i++) {
            mbarrier_init(s.k_full + 8 * i, 1);
            mbarrier_init(s.k_empty + 8 * i, 2);
            mbarrier_init(s.v_full + 8 * i, 1);
            mbarrier_init(s.v_empty + 8 * i, 2);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
}

/// A place in a pipeline of `stages`, and whether it is in an odd round.
struct Turn {
    unsigned stage, parity;
};

DEVICE Turn turn_of(unsigned count) { return {count % stages, count / stages % 2}; }

/// 128 rows of one head, both halves.
DEVICE void load(unsigned target, const TensorMap* map, unsigned full, int head, int row) {
    mbarrier_arrive_expect(full, tile_bytes);
    bulk_load(target, map, full, 0, head, row);
    bulk_load(target + half_bytes, map, full, 64, head, row);
}

/// One thread: queries of every piece, and its keys and values from the last block to the first.
DEVICE void produce(const Places& s, const TensorMaps<4>& maps, const Schedule& schedule) {
    unsigned count = 0;
    Piece piece;
    for (int i = 0; schedule.piece(piece, i, blockIdx.x); i++) {
        const int head = schedule.head_of(piece.tile);
        mbarrier_wait(s.q_empty, i % 2 ^ 1);
        load(s.q, &maps.map[0], s.q_full, head, schedule.query_of(piece.tile));
        for (int block = piece.end - 1; block >= piece.first; block--, count++) {
            const Turn t = turn_of(count);
            mbarrier_wait(s.k_empty + 8 * t.stage, t.parity ^ 1);
            load(s.k + t.stage * tile_bytes, &maps.map[1], s.k_full + 8 * t.stage, head, block * block_keys);
            mbarrier_wait(s.v_empty + 8 * t.stage, t.parity ^ 1);
            load(s.v + t.stage * tile_bytes, &maps.map[2], s.v_full + 8 * t.stage, head, block * block_keys);
        }
    }
}

/// scores = q k^T, 64 x 128.
DEVICE void score(float (&scores)[64], unsigned q, unsigned k) {
#pragma unroll
    for (int i = 0; i < head_dim / 16; i++) {
        const unsigned offset = i / 4 * half_bytes + i % 4 * 32;
        group_product(scores, group_operand(q + offset, 16, 1024, Swizzle::Bytes128), group_operand(k + offset, 16, 1024, Swizzle::Bytes128), i > 0);
    }
}

/// out += probabilities v.
DEVICE void weigh(float (&out)[64], const unsigned (&probabilities)[8][4], unsigned v) {
#pragma unroll
    for (int i = 0; i < block_keys / 16; i++)
        group_product<true>(out, probabilities[i], group_operand(v + i * 2048, half_bytes, 1024, Swizzle::Bytes128), true);
}

/// What a thread carries along for its two rows: the largest score, its own part of the sum of exponentials.
struct State {
    float largest[2], sum[2];
};

/// Keys behind the last one score minus infinity.
DEVICE void mask(float (&scores)[64], int left, int lane) {
#pragma unroll
    for (int n = 0; n < 16; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (n * 8 + lane % 4 * 2 + e % 2 >= left) scores[n * 4 + e] = -INFINITY;
}

/// Turns scores into exponentials relative to the largest so far; `shrink` is what earlier ones have to be multiplied by. The first block of a
/// piece holds a key that counts, so the largest is finite.
DEVICE void soften(float (&scores)[64], State& state, float (&shrink)[2], float factor) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float largest = state.largest[r];
#pragma unroll
        for (int n = 0; n < 16; n++) largest = fmaxf(largest, fmaxf(scores[n * 4 + 2 * r], scores[n * 4 + 2 * r + 1]));
        largest = warp_max<4>(largest);
        const float offset = largest * factor;
        shrink[r] = exp2_approx(state.largest[r] * factor - offset);
        state.largest[r] = largest;
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < 16; n++) {
            const float first = exp2_approx(scores[n * 4 + 2 * r] * factor - offset);
            const float second = exp2_approx(scores[n * 4 + 2 * r + 1] * factor - offset);
            scores[n * 4 + 2 * r] = first;
            scores[n * 4 + 2 * r + 1] = second;
            sum += first + second;
        }
        state.sum[r] = state.sum[r] * shrink[r] + sum;
    }
}

/// The accumulators of one product as the a operands of the next: their layouts agree.
DEVICE void pack(unsigned (&probabilities)[8][4], const float (&scores)[64]) {
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int first = (2 * i + j / 2) * 4 + j % 2 * 2;
            probabilities[i][j] = pack_bf16(scores[first], scores[first + 1]);
        }
}

DEVICE void rescale(float (&out)[64], const float (&shrink)[2]) {
#pragma unroll
    for (int i = 0; i < 64; i++) out[i] *= shrink[i / 2 % 2];
}

/// The rows of a whole tile, divided by their sums, through shared memory to the output.
DEVICE void store(const Places& s, const TensorMap* map, float (&out)[64], const State& state, int group, int head, int query) {
    const int thread = threadIdx.x % 128, lane = thread % 32, row = thread / 32 * 16 + lane % 16;
    const unsigned own = s.out + group * half_bytes;  // [2][64][64]
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; r++) inverse[r] = 1.0f / state.sum[r];
    // The rows of the tile before have been read.
    if (thread == 0) bulk_wait_read<0>();
    named_barrier_sync(group_barrier + group, 128);
#pragma unroll
    for (int n = 0; n < 16; n += 2) {
        unsigned pairs[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int first = (n + i / 2) * 4 + i % 2 * 2;
            pairs[i] = pack_bf16(out[first] * inverse[i % 2], out[first + 1] * inverse[i % 2]);
        }
        const int piece = n + lane / 16;
        matrix_store4(own + piece / 8 * (half_bytes / 2) + row * 128 + ((piece % 8 ^ (row & 7)) << 4), pairs);
    }
    fence_proxy_async();
    named_barrier_sync(group_barrier + group, 128);
    if (thread == 0) {
        bulk_store(own, map, 0, head, query + group * group_queries);
        bulk_store(own + half_bytes / 2, map, 64, head, query + group * group_queries);
        bulk_commit();
    }
}

/// The sums of a piece, as they lie in registers: piece_floats in pieces.cuh.
DEVICE void store_sums(float* target, const float (&out)[64], const State& state) {
    const int thread = threadIdx.x - 128, lane = thread % 32;
#pragma unroll
    for (int n = 0; n < 16; n++)
        reinterpret_cast<float4*>(target)[n * consumer_threads + thread] = make_float4(out[4 * n], out[4 * n + 1], out[4 * n + 2], out[4 * n + 3]);
    if (lane % 4 != 0) return;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = thread / 32 * 16 + lane / 4 + r * 8;
        target[tile_queries * head_dim + row] = state.largest[r];
        target[tile_queries * head_dim + tile_queries + row] = state.sum[r];
    }
}

/// One warpgroup: its 64 queries of every piece.
DEVICE void consume(const Places& s, const TensorMaps<4>& maps, const AttentionParams& p, const Schedule& schedule, int group) {
    const int thread = threadIdx.x % 128;
    const unsigned q = s.q + group * (group_queries * 128);
    const float factor = p.scale * log2_e;
    unsigned count = 0;
    if (group == 1) named_barrier_arrive(turn, consumer_threads);  // warpgroup 0 begins
    Piece piece;
#pragma unroll 1
    for (int i = 0; schedule.piece(piece, i, blockIdx.x); i++) {
        float out[64], scores[64], shrink[2];
        unsigned probabilities[8][4];
        State state = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}};
#pragma unroll
        for (int e = 0; e < 64; e++) out[e] = 0.0f;
        Turn now = turn_of(count);
        mbarrier_wait(s.q_full, i % 2);
        mbarrier_wait(s.k_full + 8 * now.stage, now.parity);
        named_barrier_sync(turn + group, consumer_threads);
        group_fence();
        score(scores, q, s.k + now.stage * tile_bytes);
        group_commit();
        named_barrier_arrive(turn + (group ^ 1), consumer_threads);
        group_wait<0>();
        if (thread == 0) mbarrier_arrive(s.k_empty + 8 * now.stage);
        const int left = static_cast<int>(p.keys) - (piece.end - 1) * block_keys;
        if (left < block_keys) mask(scores, left, thread % 32);
        soften(scores, state, shrink, factor);
        pack(probabilities, scores);
#pragma unroll 1
        for (int block = piece.end - 2; block >= piece.first; block--) {
            const Turn before = now;
            now = turn_of(++count);
            mbarrier_wait(s.k_full + 8 * now.stage, now.parity);
            named_barrier_sync(turn + group, consumer_threads);
            group_fence();
            score(scores, q, s.k + now.stage * tile_bytes);
            group_commit();
            mbarrier_wait(s.v_full + 8 * before.stage, before.parity);
            group_fence();
            weigh(out, probabilities, s.v + before.stage * tile_bytes);
            group_commit();
            named_barrier_arrive(turn + (group ^ 1), consumer_threads);
            group_wait<1>();
            if (thread == 0) mbarrier_arrive(s.k_empty + 8 * now.stage);
            soften(scores, state, shrink, factor);
            group_wait<0>();
            if (thread == 0) mbarrier_arrive(s.v_empty + 8 * before.stage);
            pack(probabilities, scores);
            rescale(out, shrink);
        }
        // Every product with these queries has been waited for: the next ones may come.
        if (thread == 0) mbarrier_arrive(s.q_empty);
        mbarrier_wait(s.v_full + 8 * now.stage, now.parity);
        group_fence();
        weigh(out, probabilities, s.v + now.stage * tile_bytes);
        group_commit();
#pragma unroll
        for (int r = 0; r < 2; r++) state.sum[r] = warp_sum<4>(state.sum[r]);
        group_wait<0>();
        if (thread == 0) mbarrier_arrive(s.v_empty + 8 * now.stage);
        count++;
        if (piece.slot >= 0)
            store_sums(piece_sums(p, piece.slot), out, state);
        else
            store(s, &maps.map[3], out, state, group, schedule.head_of(piece.tile), schedule.query_of(piece.tile));
    }
    if (group == 0) named_barrier_sync(turn, consumer_threads);  // takes the last turn that was given
    if (thread == 0) bulk_wait_read<0>();
}

}  // namespace

extern "C" __global__ void __launch_bounds__(384, 1)
    attention_sm90a_bf16(const __grid_constant__ AttentionParams p, const __grid_constant__ TensorMaps<4> maps) {
    DYNAMIC_SHARED(memory);
    const Places s = places_of(shared_address(memory));
    const Schedule schedule(p, gridDim.x);
    begin(s);
    if (schedule.whole != schedule.tiles && blockIdx.x == 0 && threadIdx.x == 0) *workspace_grid(p) = gridDim.x;
    const int group = static_cast<int>(threadIdx.x / 128) - 1;
    if (group < 0) {
        release_registers<40>();
        if (threadIdx.x == 0) produce(s, maps, schedule);
    } else {
        take_registers<232>();
        consume(s, maps, p, schedule, group);
    }
}
KERNEL(attention_sm90a_bf16)

// Adds the pieces of each tile that was cut, in the order of their keys, and divides by the sums. blockIdx.x: which tile; blockIdx.y: which 8 of the 128
// columns. A thread reads what the same thread of the pieces' blocks wrote.
extern "C" __global__ void __launch_bounds__(consumer_threads) attention_sm90a_join_bf16(const __grid_constant__ AttentionParams p) {
    const Schedule schedule(p, *workspace_grid(p));
    const int cut = blockIdx.x, tile = schedule.whole + cut, thread = threadIdx.x, lane = thread % 32, n = blockIdx.y;
    const int first = schedule.first_slot(cut), end = schedule.end_slot(cut), row = thread / 32 * 16 + lane / 4;
    const float factor = p.scale * log2_e;
    float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f}, out[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int slot = first; slot < end; slot++)
        for (int r = 0; r < 2; r++) largest[r] = fmaxf(largest[r], piece_sums(p, slot)[tile_queries * head_dim + row + r * 8]);
    for (int slot = first; slot < end; slot++) {
        const float* sums = piece_sums(p, slot);
        const float4 part = reinterpret_cast<const float4*>(sums)[n * consumer_threads + thread];
        const float parts[4] = {part.x, part.y, part.z, part.w};
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float* of_row = sums + tile_queries * head_dim + row + r * 8;
            const float shrink = exp2_approx((of_row[0] - largest[r]) * factor);
            sum[r] += of_row[tile_queries] * shrink;
            out[2 * r] += parts[2 * r] * shrink;
            out[2 * r + 1] += parts[2 * r + 1] * shrink;
        }
    }
    bf16* target = reinterpret_cast<bf16*>(p.out) + schedule.head_of(tile) * p.out_head_stride;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int query = schedule.query_of(tile) + row + r * 8;
        if (query >= static_cast<int>(p.queries)) continue;
        const float inverse = 1.0f / sum[r];
        bf16* place = target + query * p.out_row_stride + n * 8 + lane % 4 * 2;
        *reinterpret_cast<unsigned*>(place) = pack_bf16(out[2 * r] * inverse, out[2 * r + 1] * inverse);
    }
}
KERNEL(attention_sm90a_join_bf16)
