// out[r, c] = residual[r, c] + gate[c] * activation(sum_k x[r, k] * weight[c, k] + bias[c])
//
// For sm_90a: wgmma, TMA, warp specialisation, clusters. x and weight have to begin at multiples of 16 bytes, with strides that are (TMA's rule): what does not, linear_sm80.cu does.
// fp32 sums over k in ascending order, rounded to bf16 after the bias, the activation, the gate and the residual.
//
// Mapping: one block a multiprocessor takes tile after tile of out, 128 rows by 256, 128 or 64 columns, in the order of raster.cuh. One
// warpgroup produces: one thread of it brings 64 columns of x and weight at a time by TMA into a ring of stages (ring_sm90a.cuh), 48, 32 or 24 KiB each, and runs
// on into the next tile while this one is finished. Two warpgroups consume, 64 rows each: wgmma m64n256k16, n128 or n64, both operands from shared
// memory, one stage's products under way while the next are issued; a stage goes back one step later. The bias is fetched beside the last products. Then the sums
// leave (store_sm90a.cuh): by stmatrix into shared memory, there activation, gate and residual (epilogue.cuh; GELU alone before, in registers), and out
//   .._bf16         as rows of 16 bytes, 128 columns at a time, by the threads;
//   .._boxes_bf16   as boxes of 64 columns by TMA, two of them waiting for each warpgroup, while the next tile is multiplied (out and its rows whole pieces of 16 bytes).
// Registers: 40 for the producer, 232 for the consumers (setmaxnreg), of which 128 or 64 are sums, 32 or 16 the bias.
// `256x144`: two products of 64 rows for each consumer, one below the other (Ring::halves), 144 sums a thread; boxes of 48 columns.
// Pairs (.._pair_..): clusters of two blocks whose tiles stand one above the other have the same rows of weight, and each brings half of them to both by multicast. An odd last row of tiles lies
// in pairs side by side, which have x in common. A stage is empty when all four consumers gave it back.
// `cut`: the tiles, or pairs, that are left over after whole rounds are cut along k into pieces, the same number of stages for everybody (base/pieces.cuh). A piece leaves its
// sums, fp32, in the workspace, and linear_sm90a_join adds them in the order of k and finishes the tile. Sizes and the number of blocks alone decide that: the
// same bits every run. linear.rs chooses it where the last round would leave too many multiprocessors idle.
// `tail`: those tiles are done as four tails of 64 columns each, which take the places of whole tiles in the ring: as many blocks have something to do, and no second launch follows.
// Maps: 0 x, 1 weight, both boxes of [rows][64] in the 128-byte swizzle, as many rows as a tile has, in pairs half of them; 2 out, boxes of [64][64]; for tails 3, weight in boxes of [64][64].
//
// Bytes: out and residual once; x once for each strip of tiles across, weight once for each down, from L2. A stage of 128 x 256 x 64 is 1024 clk of products and 48 KiB of L2, 32 KiB in pairs.
// Predicted on H100 for (4112, 21504, 3072), 543 GFLOP, 334 MB (111 us at 3.0 TB/s), at 1.75 GHz: 21 rounds of 48 stages and a tile to pack, and 4 us to begin, are 621 us if products bound them, as they should
// in pairs; 674 us in single blocks, 731 us where threads store (docs/kernels/linear.md; at the 1.5 GHz that 700 W leave: 720, 783, 850 us; measured so: 785 us).
#include "store_sm90a.cuh"

namespace {

using namespace product;

/// Where the sums of a piece go: to a slot of the workspace. A whole tile has none.
template <bool is_cut>
struct Slot {
    const LinearParams& p;
    int slot;

    template <int count>
    DEVICE bool take(const float (&sums)[count], int group) const {
        if (!is_cut || slot < 0) return false;
        store_sums(piece_sums(p, slot), sums, group);
        return true;
    }
};

template <class Ring, class Store, Last last>
DEVICE void consume(unsigned char* memory, const LinearParams& p, const WorkOf<Ring>& work, const TensorMap* out, unsigned rank) {
    static_assert(Ring::halves == 1 || last == Last::Whole);
    const int group = threadIdx.x / group_threads - 1;
    const unsigned smem = shared_address(memory);
    const Epilogue e = epilogue_of(p);
    const auto leaving = [&](TilePlace place, int columns) {
        return Leaving{int64_t{place.row} * Ring::rows + group * Ring::halves * group_rows, place.column * columns, group,
                       memory + Ring::waiting + group * Ring::waiting_bytes, 0};
    };
    Turn<Ring> turn;
    Piece piece;
    for (int i = 0; work.piece(piece, i, blockIdx.x / Ring::blocks); i++) {
        const TilePlace place = work.place(piece.tile).tile(static_cast<int>(rank));
        const int steps = piece.end - piece.first, slot = piece.slot < 0 ? -1 : piece.slot * Ring::blocks + static_cast<int>(rank);
        consume_tile<Ring, Store, Ring::columns>(e, smem, turn, steps, out, leaving(place, Ring::columns), Slot<last == Last::Cut>{p, slot});
    }
    if constexpr (last == Last::Tails) {
        for (int i = blockIdx.x; i < work.tails; i += gridDim.x) {
            consume_tile<Ring, Store, tail_columns>(e, smem, turn, work.units_each, out, leaving(work.tail(i), tail_columns));
        }
    }
    Store::finish();
}

template <class Ring, class Store, Last last = Last::Whole>
DEVICE void linear(const LinearParams& p, const TensorMap* maps) {
    DYNAMIC_SHARED(memory);
    const unsigned smem = shared_address(memory), rank = Ring::blocks == 1 ? 0 : cluster_rank();
    if (last == Last::Cut && blockIdx.x == 0 && threadIdx.x == 0) *workspace_grid(p) = gridDim.x;
    start_ring<Ring>(smem);
    const WorkOf<Ring> work(p, gridDim.x, last);
    if (threadIdx.x < group_threads) {
        release_registers<40>();
        if (threadIdx.x == 0) produce<Ring, last>(smem, maps, work, rank);
    } else {
        take_registers<232>();
        consume<Ring, Store, last>(memory, p, work, maps + 2, rank);
    }
}

/// Adds the pieces of each tile that was cut, in the order of k, and finishes it. blockIdx.x: which cut tile, in pairs each block's in turn; blockIdx.y: which 8 of its 128 rows. A
/// thread has eight columns of one row.
template <int blocks>
DEVICE void join(const LinearParams& p) {
    constexpr int columns = 256;
    const Work<columns, blocks> work(p, *workspace_grid(p), Last::Cut);
    const int cut = blockIdx.x / blocks, rank = blockIdx.x % blocks;
    const TilePlace place = work.place(work.whole + cut).tile(rank);
    const int row = blockIdx.y * 8 + threadIdx.x / 32, column = threadIdx.x % 32 * 8;
    float sums[8] = {};
    for (int slot = work.first_slot(cut), end = work.end_slot(cut); slot < end; slot++) {
        float part[8];
        load_whole(piece_sums(p, slot * blocks + rank) + row * columns + column, part);
#pragma unroll
        for (int i = 0; i < 8; i++) sums[i] += part[i];
    }
    const Epilogue e = epilogue_of(p);
    const int first_column = place.column * columns + column;
#pragma unroll
    for (int i = 0; i < 8; i++) sums[i] += bias_of(e, first_column + i);
    finish(e, pack8(sums), int64_t{place.row} * 128 + row, first_column);
}

}  // namespace

#define LINEAR(columns, stages, blocks, maps_count, store, ...)                                                                               \
    (const __grid_constant__ LinearParams p, const __grid_constant__ TensorMaps<maps_count> maps) {                                           \
        linear<Ring<columns, stages, blocks, store::waiting_bytes>, store __VA_OPT__(, ) __VA_ARGS__>(p, maps.map);                           \
    }
#define TALL_LINEAR(columns, stages, ...)                                                                                                     \
    (const __grid_constant__ LinearParams p, const __grid_constant__ TensorMaps<3> maps) {                                                    \
        linear<Ring<columns, stages, 1, __VA_ARGS__::waiting_bytes, 2>, __VA_ARGS__>(p, maps.map);                                            \
    }
#define THREADS __launch_bounds__((consumers + 1) * group_threads, 1)
#define PAIR __cluster_dims__(2, 1, 1)

extern "C" __global__ void THREADS linear_sm90a_128x256_bf16 LINEAR(256, 4, 1, 2, StoreRows)
KERNEL(linear_sm90a_128x256_bf16)

extern "C" __global__ void THREADS linear_sm90a_128x128_bf16 LINEAR(128, 6, 1, 2, StoreRows)
KERNEL(linear_sm90a_128x128_bf16)

extern "C" __global__ void THREADS linear_sm90a_128x256_boxes_bf16 LINEAR(256, 4, 1, 3, StoreBoxes<2>)
KERNEL(linear_sm90a_128x256_boxes_bf16)

extern "C" __global__ void THREADS linear_sm90a_128x256_boxes_cut_bf16 LINEAR(256, 4, 1, 3, StoreBoxes<2>, Last::Cut)
KERNEL(linear_sm90a_128x256_boxes_cut_bf16)

extern "C" __global__ void THREADS linear_sm90a_128x128_boxes_bf16 LINEAR(128, 6, 1, 3, StoreBoxes<2>)
KERNEL(linear_sm90a_128x128_boxes_bf16)

extern "C" __global__ void THREADS linear_sm90a_128x256_boxes_tail_bf16 LINEAR(256, 4, 1, 4, StoreBoxes<2>, Last::Tails)
KERNEL(linear_sm90a_128x256_boxes_tail_bf16)

extern "C" __global__ void THREADS linear_sm90a_128x64_boxes_bf16 LINEAR(64, 8, 1, 3, StoreBoxes<1>)
KERNEL(linear_sm90a_128x64_boxes_bf16)

extern "C" __global__ void THREADS linear_sm90a_256x144_boxes_bf16 TALL_LINEAR(144, 4, StoreBoxes<2, 48>)
KERNEL(linear_sm90a_256x144_boxes_bf16)

extern "C" __global__ void PAIR THREADS linear_sm90a_pair_128x256_boxes_bf16 LINEAR(256, 4, 2, 3, StoreBoxes<2>)
KERNEL_IN_CLUSTERS(linear_sm90a_pair_128x256_boxes_bf16, 2)

extern "C" __global__ void PAIR THREADS linear_sm90a_pair_128x256_boxes_cut_bf16 LINEAR(256, 4, 2, 3, StoreBoxes<2>, Last::Cut)
KERNEL_IN_CLUSTERS(linear_sm90a_pair_128x256_boxes_cut_bf16, 2)

extern "C" __global__ void PAIR THREADS linear_sm90a_pair_128x128_boxes_bf16 LINEAR(128, 6, 2, 3, StoreBoxes<2>)
KERNEL_IN_CLUSTERS(linear_sm90a_pair_128x128_boxes_bf16, 2)

extern "C" __global__ void __launch_bounds__(256) linear_sm90a_join_bf16(const __grid_constant__ LinearParams p) { join<1>(p); }
KERNEL(linear_sm90a_join_bf16)

extern "C" __global__ void __launch_bounds__(256) linear_sm90a_pair_join_bf16(const __grid_constant__ LinearParams p) { join<2>(p); }
KERNEL(linear_sm90a_pair_join_bf16)
