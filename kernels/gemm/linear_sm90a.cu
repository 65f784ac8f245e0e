// out[r, c] = residual[r, c] + gate[c] * activation(sum_k x[r, k] * weight[c, k] + bias[c])
//
// For sm_90a: wgmma, TMA, warp specialisation. x and weight have to begin at multiples of 16 bytes, with strides that are (TMA's rule): what does not, linear_sm80.cu does.
// fp32 sums over k in ascending order, rounded to bf16 after the bias, the activation, the gate and the residual.
//
// Mapping: one block a multiprocessor takes tile blockIdx.x, + gridDim.x, ... of out, 128 rows by 256 or 128 columns, in the order of raster.cuh. One
// warpgroup produces: one thread of it brings 64 columns of x and weight at a time by TMA into a ring of 4 (128 x 256: 48 KiB each) or 6 (32 KiB) stages, and runs
// on into the next tile while this one is finished. Two warpgroups consume, 64 rows each: wgmma m64n256k16 or m64n128k16, both operands from shared
// memory, one stage's products under way while the next are issued; a stage goes back one step later. Then the sums with their bias go, 128 columns at a time, by stmatrix into
// 16 KiB of the warpgroup's own, and leave as rows of 16 bytes with activation, gate and residual (epilogue.cuh).
// Registers: 40 for the producer, 232 for the consumers (setmaxnreg), of which 128 or 64 are sums.
// `cut`: the tiles that are left over after whole rounds are cut along k into pieces, the same number of stages for everybody (base/pieces.cuh). A piece leaves its
// sums, fp32, in the workspace, and linear_sm90a_join adds them in the order of k and finishes the tile. Sizes and the number of blocks alone decide that: the
// same bits every run. linear.rs chooses it where the last round would leave too many multiprocessors idle.
// Maps: 0 x, 1 weight, both [rows][64] boxes in the 128-byte swizzle.
//
// Bytes: out and residual once; x once for each strip of tiles across, weight once for each down, from L2. A stage of 128 x 256 x 64 is 1024 clk of products and 48 KiB of L2.
// Predicted on H100 for (4112, 21504, 3072), 543 GFLOP, 334 MB (111 us at 3.0 TB/s): 21 rounds of 48 stages are 625 us if products bound them, 0.80 to 0.90 ms where L2
// does, as is likely (docs/kernels/linear.md).
#include "linear.cuh"
#include "raster.cuh"

#include "../base/pieces.cuh"
#include "../base/ptx.cuh"

namespace {

using namespace product;

constexpr int consumers = 2, group_threads = 128, depth = 64, x_rows = 128;
constexpr int half_columns = 128;  // of one pass of the epilogue
constexpr unsigned x_bytes = x_rows * depth * 2, waiting_bytes = 64 * half_columns * 2;

template <int columns_, int stages_>
struct Ring {
    static constexpr int columns = columns_, stages = stages_;
    static constexpr unsigned stage_bytes = x_bytes + columns * depth * 2;
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

/// The tiles of out, and what of them this block does.
struct Work : Pieces {
    int down, across;

    DEVICE Work(const LinearParams& p, int columns, unsigned grid_size, bool is_cut) {
        down = (p.rows + x_rows - 1) / x_rows;
        across = (p.columns + columns - 1) / columns;
        units_each = (p.inner + depth - 1) / depth;
        grid = static_cast<int>(grid_size);
        tiles = down * across;
        whole = is_cut ? tiles - tiles % grid : tiles;
    }

    DEVICE TilePlace place(const Piece& piece) const { return tile_place(piece.tile, down, across); }
};

template <class Ring>
DEVICE void produce(unsigned smem, const TensorMaps<2>& maps, const Work& work) {
    Turn<Ring> turn;
    Piece piece;
    for (int i = 0; work.piece(piece, i, blockIdx.x); i++) {
        const TilePlace place = work.place(piece);
        for (int step = piece.first; step < piece.end; step++) {
            const unsigned stage = smem + turn.stage * Ring::stage_bytes, full = smem + Ring::full + 8 * turn.stage;
            mbarrier_wait(smem + Ring::empty + 8 * turn.stage, turn.parity ^ 1);
            mbarrier_arrive_expect(full, Ring::stage_bytes);
            bulk_load(stage, &maps.map[0], full, step * depth, place.row * x_rows);
            bulk_load(stage + x_bytes, &maps.map[1], full, step * depth, place.column * Ring::columns);
            turn.advance();
        }
    }
}

/// sums = x weight^T for the warpgroup's 64 rows. Gives every stage back.
template <class Ring>
DEVICE void consume(float (&sums)[Ring::columns / 2], unsigned smem, Turn<Ring>& turn, int steps, int group) {
    const bool is_first = threadIdx.x % group_threads == 0;
    unsigned before = 0;
    for (int step = 0; step < steps; step++) {
        const unsigned x = smem + turn.stage * Ring::stage_bytes + group * (64 * depth * 2);
        const unsigned weight = smem + turn.stage * Ring::stage_bytes + x_bytes;
        mbarrier_wait(smem + Ring::full + 8 * turn.stage, turn.parity);
        group_fence();
#pragma unroll
        for (int k = 0; k < depth / 16; k++) {
            group_product(sums, group_operand(x + k * 32, 16, 1024, Swizzle::Bytes128), group_operand(weight + k * 32, 16, 1024, Swizzle::Bytes128),
                          step > 0 || k > 0);
        }
        group_commit();
        // The products before these are done: their stage is free.
        group_wait<1>();
        if (step > 0 && is_first) mbarrier_arrive(smem + Ring::empty + 8 * before);
        before = turn.stage;
        turn.advance();
    }
    group_wait<0>();
    if (steps > 0 && is_first) mbarrier_arrive(smem + Ring::empty + 8 * before);
}

/// Puts 128 columns of sums with their bias, rounded, where `finish_rows` expects them.
template <int count>
DEVICE void put_sums(const float (&sums)[count], int half, const Epilogue& e, unsigned waiting_smem, int first_column) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x % group_threads / 32;
    // stmatrix: lane i names row i % 8 of matrix i / 8; matrices 0 and 1 are rows 0-7 and 8-15 of 8 columns, 2 and 3 those of the next 8.
    const int row = warp * 16 + lane % 16, matrix_column = lane / 16;
#pragma unroll
    for (int n = 0; n < half_columns / 8; n += 2) {
        unsigned pairs[4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int column = first_column + (n + i) * 8 + lane % 4 * 2;
            const float bias0 = bias_of(e, column), bias1 = bias_of(e, column + 1);
            const float* own = sums + half * (half_columns / 2) + (n + i) * 4;
            pairs[2 * i] = pack_bf16(own[0] + bias0, own[1] + bias1);
            pairs[2 * i + 1] = pack_bf16(own[2] + bias0, own[3] + bias1);
        }
        matrix_store4(waiting_smem + waiting_offset<half_columns>(row, n + matrix_column), pairs);
    }
}

template <class Ring>
DEVICE void finish_tile(const float (&sums)[Ring::columns / 2], const Epilogue& e, unsigned char* memory, int64_t row, int column, int group) {
    unsigned char* waiting_smem = memory + Ring::waiting + group * waiting_bytes;
    const int thread = threadIdx.x % group_threads;
#pragma unroll
    for (int half = 0; half < Ring::columns / half_columns; half++) {
        const int first_column = column + half * half_columns;
        // Everybody has read what waited here before.
        named_barrier_sync(1 + group, group_threads);
        put_sums(sums, half, e, shared_address(waiting_smem), first_column);
        named_barrier_sync(1 + group, group_threads);
        finish_rows<64, half_columns, group_threads>(e, waiting_smem, row, first_column, thread);
    }
}

/// The sums of a piece, row after row: the words of a row that a quad holds are one sector.
template <class Ring>
DEVICE void store_sums(float* target, const float (&sums)[Ring::columns / 2], int group) {
    const int thread = threadIdx.x % group_threads, lane = thread % 32, row = group * 64 + thread / 32 * 16 + lane / 4;
#pragma unroll
    for (int n = 0; n < Ring::columns / 8; n++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float* const place = target + (row + r * 8) * Ring::columns + n * 8 + lane % 4 * 2;
            *reinterpret_cast<float2*>(place) = make_float2(sums[4 * n + 2 * r], sums[4 * n + 2 * r + 1]);
        }
    }
}

template <class Ring, bool is_cut>
DEVICE void linear(const LinearParams& p, const TensorMaps<2>& maps) {
    DYNAMIC_SHARED(memory);
    const unsigned smem = shared_address(memory);
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < Ring::stages; stage++) {
            mbarrier_init(smem + Ring::full + 8 * stage, 1);
            mbarrier_init(smem + Ring::empty + 8 * stage, consumers);
        }
        fence_mbarrier_init();
        if (is_cut && blockIdx.x == 0) *workspace_grid(p) = gridDim.x;
    }
    __syncthreads();
    const Work work(p, Ring::columns, gridDim.x, is_cut);
    if (threadIdx.x < group_threads) {
        release_registers<40>();
        if (threadIdx.x == 0) produce<Ring>(smem, maps, work);
    } else {
        take_registers<232>();
        const int group = threadIdx.x / group_threads - 1;
        const Epilogue e = epilogue_of(p);
        Turn<Ring> turn;
        Piece piece;
        for (int i = 0; work.piece(piece, i, blockIdx.x); i++) {
            const TilePlace place = work.place(piece);
            float sums[Ring::columns / 2] = {};
            consume<Ring>(sums, smem, turn, piece.end - piece.first, group);
            if (is_cut && piece.slot >= 0)
                store_sums<Ring>(piece_sums(p, piece.slot), sums, group);
            else
                finish_tile<Ring>(sums, e, memory, int64_t{place.row} * x_rows + group * 64, place.column * Ring::columns, group);
        }
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__((consumers + 1) * group_threads, 1)
    linear_sm90a_128x256_bf16(const __grid_constant__ LinearParams p, const __grid_constant__ TensorMaps<2> maps) {
    linear<Ring<256, 4>, false>(p, maps);
}
KERNEL(linear_sm90a_128x256_bf16)

extern "C" __global__ void __launch_bounds__((consumers + 1) * group_threads, 1)
    linear_sm90a_128x256_cut_bf16(const __grid_constant__ LinearParams p, const __grid_constant__ TensorMaps<2> maps) {
    linear<Ring<256, 4>, true>(p, maps);
}
KERNEL(linear_sm90a_128x256_cut_bf16)

extern "C" __global__ void __launch_bounds__((consumers + 1) * group_threads, 1)
    linear_sm90a_128x128_bf16(const __grid_constant__ LinearParams p, const __grid_constant__ TensorMaps<2> maps) {
    linear<Ring<128, 6>, false>(p, maps);
}
KERNEL(linear_sm90a_128x128_bf16)

// Adds the pieces of each tile that was cut, in the order of k, and finishes it. blockIdx.x: which tile; blockIdx.y: which 8 of its 128 rows. A thread has
// eight columns of one row.
extern "C" __global__ void __launch_bounds__(256) linear_sm90a_join_bf16(const __grid_constant__ LinearParams p) {
    constexpr int columns = 256;
    const Work work(p, columns, *workspace_grid(p), true);
    const TilePlace place = work.place({work.whole + static_cast<int>(blockIdx.x), 0, 0, 0});
    const int row = blockIdx.y * 8 + threadIdx.x / 32, column = threadIdx.x % 32 * 8;
    float sums[8] = {};
    for (int slot = work.first_slot(blockIdx.x), end = work.end_slot(blockIdx.x); slot < end; slot++) {
        float part[8];
        load_whole(piece_sums(p, slot) + row * columns + column, part);
#pragma unroll
        for (int i = 0; i < 8; i++) sums[i] += part[i];
    }
    const Epilogue e = epilogue_of(p);
    const int first_column = place.column * columns + column;
#pragma unroll
    for (int i = 0; i < 8; i++) sums[i] += bias_of(e, first_column + i);
    finish(e, pack8(sums), int64_t{place.row} * x_rows + row, first_column);
}
KERNEL(linear_sm90a_join_bf16)
