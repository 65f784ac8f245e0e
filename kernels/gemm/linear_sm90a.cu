// out[r, c] = residual[r, c] + gate[c] * activation(sum_k x[r, k] * weight[c, k] + bias[c])
//
// For sm_90a: wgmma, TMA, warp specialisation, clusters. x and weight have to begin at multiples of 16 bytes, with strides that are (TMA's rule): what does not, linear_sm80.cu does.
// fp32 sums over k in ascending order, rounded to bf16 after the bias, the activation, the gate and the residual.
//
// Mapping: one block a multiprocessor takes tile after tile of out, 128 rows by 256 or 128 columns, in the order of raster.cuh. One
// warpgroup produces: one thread of it brings 64 columns of x and weight at a time by TMA into a ring of stages (ring_sm90a.cuh), 48 KiB each or 32, and runs
// on into the next tile while this one is finished. Two warpgroups consume, 64 rows each: wgmma m64n256k16 or m64n128k16, both operands from shared
// memory, one stage's products under way while the next are issued; a stage goes back one step later. The bias is fetched beside the last products. Then the sums
// leave (store_sm90a.cuh): by stmatrix into shared memory, there activation, gate and residual (epilogue.cuh), and out
//   .._bf16         as rows of 16 bytes, 128 columns at a time, by the threads;
//   .._boxes_bf16   as boxes of 64 columns by TMA, two of them waiting for each warpgroup, while the next tile is multiplied (out aligned to 16 bytes);
//   .._boxes4_bf16  the same, with room for all four boxes of a tile, and a stage less.
// Registers: 40 for the producer, 232 for the consumers (setmaxnreg), of which 128 or 64 are sums, 32 or 16 the bias.
// Pairs (.._pair_..): clusters of two blocks whose tiles stand one above the other have the same rows of weight, and each brings half of them to both by multicast. An odd last row of tiles lies
// in pairs side by side, which have x in common. A stage is empty when all four consumers gave it back.
// Maps: 0 x, 1 weight, both boxes of [rows][64] in the 128-byte swizzle, as many rows as a tile has, in pairs half of them; 2 out, boxes of [64][64].
//
// Bytes: out and residual once; x once for each strip of tiles across, weight once for each down, from L2. A stage of 128 x 256 x 64 is 1024 clk of products and 48 KiB of L2, 32 KiB in pairs.
// Predicted on H100 for (4112, 21504, 3072), 543 GFLOP, 334 MB (111 us at 3.0 TB/s): 21 rounds of 48 stages are 618 us if products bound them, as they should in pairs, 633 us stored
// by the threads; 0.80 to 0.93 ms without pairs, where L2 does (docs/kernels/linear.md).
#include "store_sm90a.cuh"

namespace {

using namespace product;

template <class Ring, class Store>
DEVICE void consume(unsigned char* memory, const Work<Ring>& work, const Epilogue& e, const TensorMap* out) {
    const int group = threadIdx.x / group_threads - 1;
    const unsigned smem = shared_address(memory);
    Turn<Ring> turn;
    for (int unit = work.first(); unit < work.units; unit += work.stride()) {
        const TilePlace place = work.place(unit).tile(static_cast<int>(work.rank));
        const Leaving tile{int64_t{place.row} * x_rows + group * group_rows, place.column * Ring::columns, group,
                           memory + Ring::waiting + group * Ring::waiting_bytes};
        float sums[Ring::columns / 2] = {};
        unsigned bias[Ring::columns / 8];
        multiply<Ring>(sums, smem, turn, work.steps, group);
        load_bias<Ring::columns>(e, tile.column, bias);
        finish_sums<Ring>(smem, turn, work.steps);
        Store::store(sums, bias, e, out, tile);
    }
    Store::finish();
}

template <class Ring, class Store>
DEVICE void linear(const LinearParams& p, const TensorMap* maps) {
    DYNAMIC_SHARED(memory);
    const unsigned smem = shared_address(memory);
    start_ring<Ring>(smem);
    const Work<Ring> work(p);
    if (threadIdx.x < group_threads) {
        release_registers<40>();
        if (threadIdx.x == 0) produce<Ring>(smem, maps, work);
    } else {
        take_registers<232>();
        consume<Ring, Store>(memory, work, epilogue_of(p), maps + 2);
    }
}

}  // namespace

#define LINEAR(columns, stages, blocks, maps_count, ...)                                                                                      \
    (const __grid_constant__ LinearParams p, const __grid_constant__ TensorMaps<maps_count> maps) {                                           \
        linear<Ring<columns, stages, blocks, __VA_ARGS__::waiting_bytes>, __VA_ARGS__>(p, maps.map);                                          \
    }
#define THREADS __launch_bounds__((consumers + 1) * group_threads, 1)
#define PAIR __cluster_dims__(2, 1, 1)

extern "C" __global__ void THREADS linear_sm90a_128x256_bf16 LINEAR(256, 4, 1, 2, StoreRows)
KERNEL(linear_sm90a_128x256_bf16)

extern "C" __global__ void THREADS linear_sm90a_128x128_bf16 LINEAR(128, 6, 1, 2, StoreRows)
KERNEL(linear_sm90a_128x128_bf16)

extern "C" __global__ void PAIR THREADS linear_sm90a_pair_128x256_bf16 LINEAR(256, 4, 2, 2, StoreRows)
KERNEL_IN_CLUSTERS(linear_sm90a_pair_128x256_bf16, 2)

extern "C" __global__ void PAIR THREADS linear_sm90a_pair_128x128_bf16 LINEAR(128, 6, 2, 2, StoreRows)
KERNEL_IN_CLUSTERS(linear_sm90a_pair_128x128_bf16, 2)

extern "C" __global__ void PAIR THREADS linear_sm90a_pair_128x256_boxes_bf16 LINEAR(256, 4, 2, 3, StoreBoxes<2>)
KERNEL_IN_CLUSTERS(linear_sm90a_pair_128x256_boxes_bf16, 2)

extern "C" __global__ void PAIR THREADS linear_sm90a_pair_128x256_boxes4_bf16 LINEAR(256, 3, 2, 3, StoreBoxes<4>)
KERNEL_IN_CLUSTERS(linear_sm90a_pair_128x256_boxes4_bf16, 2)

extern "C" __global__ void PAIR THREADS linear_sm90a_pair_128x128_boxes_bf16 LINEAR(128, 6, 2, 3, StoreBoxes<2>)
KERNEL_IN_CLUSTERS(linear_sm90a_pair_128x128_boxes_bf16, 2)
