// The ring of stages through which x and weight reach the tensor cores of sm_90a: one thread brings them by TMA, two warpgroups multiply them by wgmma.
//
// In clusters of two blocks each of them has a tile of its own, and they have one operand in common (raster.cuh): each brings half of it to both. A stage is empty when the consumers of
// both blocks gave it back, and both go through the same number of stages; what lies beyond the last row or column arrives as zeros, and nothing of it is stored.
#pragma once
#include "linear.cuh"
#include "raster.cuh"

#include "../base/pieces.cuh"
#include "../base/ptx.cuh"

namespace product {

constexpr int consumers = 2, group_threads = 128, depth = 64, group_rows = 64;

/// Where things lie in shared memory: stages of x and weight, what a finished tile waits in, the mbarriers. A consumer has `halves` times 64 rows of a tile, one below the other.
template <int columns_, int stages_, int blocks_, unsigned waiting_bytes_, int halves_ = 1>
struct Ring {
    static_assert(blocks_ == 1 || (blocks_ == 2 && halves_ == 1));
    static constexpr int columns = columns_, stages = stages_, blocks = blocks_, halves = halves_, rows = consumers * halves * group_rows;
    static constexpr unsigned x_bytes = rows * depth * 2, weight_bytes = columns * depth * 2, stage_bytes = x_bytes + weight_bytes;
    /// Of one consumer.
    static constexpr unsigned waiting_bytes = waiting_bytes_;
    static constexpr unsigned waiting = stages * stage_bytes, full = waiting + consumers * waiting_bytes, empty = full + 8 * stages;
};

/// Where one stands in the ring; the parity changes with every turn.
template <class Ring>
struct Turn {
    unsigned stage = 0, parity = 0;
    DEVICE void advance() {
        if (++stage < Ring::stages) return;
        stage = 0;
        parity ^= 1;
    }
};

/// What becomes of the tiles that are left over after whole rounds: done whole, cut along k, or done as tails of 64 columns.
enum class Last { Whole, Cut, Tails };

constexpr int tail_columns = 64;

/// What is done of out: of its tiles, or pairs of them, by blocks, or clusters of them.
template <int columns, int blocks, int rows = 128>
struct Work : Pieces {
    int down, across;
    /// Tails behind the tiles.
    int tails;

    DEVICE Work(const LinearParams& p, unsigned grid_size, Last last) {
        down = (p.rows + rows - 1) / rows;
        across = (p.columns + columns - 1) / columns;
        units_each = (p.inner + depth - 1) / depth;
        grid = static_cast<int>(grid_size) / blocks;
        tiles = blocks == 1 ? down * across : pairs_of(down, across);
        whole = last == Last::Whole ? tiles : tiles - tiles % grid;
        tails = 0;
        if (last == Last::Tails) {
            tails = (tiles - whole) * (columns / tail_columns);
            tiles = whole;
        }
    }

    /// Tail `index`, its column counted in tails. It may lie beyond the last column.
    DEVICE TilePlace tail(int index) const {
        constexpr int each = columns / tail_columns;
        const TilePlace tile = tile_place(whole + index / each, down, across);
        return {tile.row, tile.column * each + index % each};
    }

    DEVICE PairPlace place(int tile) const {
        if constexpr (blocks == 1) return {tile_place(tile, down, across), false};
        return pair_place(tile, down, across);
    }
};

template <class Ring>
using WorkOf = Work<Ring::columns, Ring::blocks, Ring::rows>;

template <class Ring>
DEVICE void start_ring(unsigned smem) {
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < Ring::stages; stage++) {
            mbarrier_init(smem + Ring::full + 8 * stage, 1);
            mbarrier_init(smem + Ring::empty + 8 * stage, consumers * Ring::blocks);
        }
        fence_mbarrier_init();
    }
    if constexpr (Ring::blocks == 1) {
        __syncthreads();
    } else {
        cluster_arrive();
        cluster_wait();
    }
}

/// The rows of one operand: all of them in two boxes for this block, or half of them for both.
template <int rows>
DEVICE void load_half_or_both(unsigned to, const TensorMap* map, unsigned full, int column, int row, bool is_shared, unsigned rank) {
    constexpr unsigned half_bytes = rows / 2 * depth * 2;
    if (is_shared) return bulk_load_multicast(to + rank * half_bytes, map, full, 3, column, row + static_cast<int>(rank) * (rows / 2));
    bulk_load(to, map, full, column, row);
    bulk_load(to + half_bytes, map, full, column, row + rows / 2);
}

/// Maps: 0 x, 1 weight. Boxes of whole tiles, or of half ones in clusters.
template <class Ring>
DEVICE void load_stage(unsigned stage, unsigned full, const TensorMap* maps, int column, const PairPlace& place, unsigned rank) {
    const TilePlace tile = place.tile(static_cast<int>(rank));
    if constexpr (Ring::blocks == 1) {
        bulk_load(stage, &maps[0], full, column, tile.row * Ring::rows);
        bulk_load(stage + Ring::x_bytes, &maps[1], full, column, tile.column * Ring::columns);
    } else {
        load_half_or_both<Ring::rows>(stage, &maps[0], full, column, tile.row * Ring::rows, place.is_across, rank);
        load_half_or_both<Ring::columns>(stage + Ring::x_bytes, &maps[1], full, column, tile.column * Ring::columns, !place.is_across, rank);
    }
}

/// Until the consumers, in a cluster those of both blocks, gave the stage back.
template <class Ring>
DEVICE void wait_empty(unsigned smem, const Turn<Ring>& turn) {
    mbarrier_wait(smem + Ring::empty + 8 * turn.stage, turn.parity ^ 1);
}

/// Fills the stage where the producer stands, once it is empty, and goes on to the next: `load(stage, full)` issues copies of so many bytes to the mbarrier `full`.
template <class Ring, class Load>
DEVICE void bring(unsigned smem, Turn<Ring>& turn, Load load, unsigned bytes = Ring::stage_bytes) {
    const unsigned full = smem + Ring::full + 8 * turn.stage;
    wait_empty(smem, turn);
    mbarrier_arrive_expect(full, bytes);
    load(smem + turn.stage * Ring::stage_bytes, full);
    turn.advance();
}

/// Tails take the places of whole tiles in the stages, and fill a part of them. Map 3 is the weight, in boxes of a tail's columns.
template <class Ring>
DEVICE void produce_tails(unsigned smem, const TensorMap* maps, const WorkOf<Ring>& work, Turn<Ring>& turn) {
    constexpr unsigned bytes = Ring::x_bytes + tail_columns * depth * 2;
    for (int i = blockIdx.x; i < work.tails; i += gridDim.x) {
        const TilePlace tail = work.tail(i);
        for (int step = 0; step < work.units_each; step++) {
            const auto load = [&](unsigned stage, unsigned full) {
                bulk_load(stage, &maps[0], full, step * depth, tail.row * Ring::rows);
                bulk_load(stage + Ring::x_bytes, &maps[3], full, step * depth, tail.column * tail_columns);
            };
            bring(smem, turn, load, bytes);
        }
    }
}

template <class Ring, Last last>
DEVICE void produce(unsigned smem, const TensorMap* maps, const WorkOf<Ring>& work, unsigned rank) {
    Turn<Ring> turn;
    Piece piece;
    for (int i = 0; work.piece(piece, i, blockIdx.x / Ring::blocks); i++) {
        const PairPlace place = work.place(piece.tile);
        for (int step = piece.first; step < piece.end; step++)
            bring(smem, turn, [&](unsigned stage, unsigned full) { load_stage<Ring>(stage, full, maps, step * depth, place, rank); });
    }
    if constexpr (last == Last::Tails) produce_tails<Ring>(smem, maps, work, turn);
    // A block may not leave while the other's consumers still give stages back to it.
    constexpr int waits = Ring::blocks == 1 ? 0 : Ring::stages;
    for (int stage = 0; stage < waits; stage++) {
        wait_empty(smem, turn);
        turn.advance();
    }
}

/// One thread for each block of the cluster.
template <class Ring>
DEVICE void give_back(unsigned smem, unsigned stage) {
    const unsigned thread = threadIdx.x % group_threads, empty = smem + Ring::empty + 8 * stage;
    if (thread >= Ring::blocks) return;
    if constexpr (Ring::blocks == 1)
        mbarrier_arrive(empty);
    else
        mbarrier_arrive_peer(peer_address(empty, thread));
}

/// sums = x weight^T for the warpgroup's rows, 64 in each part, all but the last stage's products done; `finish_sums` waits for those.
template <class Ring, int count>
DEVICE void multiply(float (&sums)[Ring::halves][count], unsigned smem, Turn<Ring>& turn, int steps, int group) {
    constexpr unsigned half_bytes = group_rows * depth * 2;
    unsigned before = 0;
    for (int step = 0; step < steps; step++) {
        const unsigned x = smem + turn.stage * Ring::stage_bytes + group * Ring::halves * half_bytes;
        const unsigned weight = smem + turn.stage * Ring::stage_bytes + Ring::x_bytes;
        mbarrier_wait(smem + Ring::full + 8 * turn.stage, turn.parity);
        group_fence();
#pragma unroll
        for (int k = 0; k < depth / 16; k++) {
            const uint64_t right = group_operand(weight + k * 32, 16, 1024, Swizzle::Bytes128);
#pragma unroll
            for (int half = 0; half < Ring::halves; half++)
                group_product(sums[half], group_operand(x + half * half_bytes + k * 32, 16, 1024, Swizzle::Bytes128), right, step > 0 || k > 0);
        }
        group_commit();
        // The products before these are done: their stage is free.
        group_wait<1>();
        if (step > 0) give_back<Ring>(smem, before);
        before = turn.stage;
        turn.advance();
    }
}

/// Waits for the last products, and gives the last stage back.
template <class Ring>
DEVICE void finish_sums(unsigned smem, const Turn<Ring>& turn, int steps) {
    group_wait<0>();
    if (steps > 0) give_back<Ring>(smem, turn.stage == 0 ? Ring::stages - 1 : turn.stage - 1);
}

}  // namespace product
