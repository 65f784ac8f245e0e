// out[y, x, co] = residual[y, x, co] + bias[co] + sum_{ky, kx, ci} in[y + ky - pad_top, x + kx - pad_left, ci] * weight[co, ky, kx, ci]
//
// For sm_90a, stride 1, channels of in and out that are multiples of 8: the product of linear_sm90a.cu (wgmma, TMA, a producer, two consumer warpgroups, a persistent
// grid) with the image itself as its left operand. What that cannot do, conv2d.cu does. fp32 sums in ascending order of (ky, kx, ci), rounded to bf16 with the bias and again with the
// residual.
//
// Mapping: one block a multiprocessor takes tile after tile of out, patches of 16 pixels across and 8 or 16 down by 256 or 128 channels, in the order of gemm/raster.cuh. What one tap sees
// of a patch in 64 channels is one box of the image, [64, 16, 8 or 16], that begins where the tap puts it: TMA lays it down as 128 or 256 rows of 128 bytes, which is what wgmma reads,
// and gives zeros for what lies outside of the image (or behind the last channel), so that padding costs nothing and no thread computes an address. A stage of the ring is that and
// the same tap and channels of the weight, 48 KiB. Each consumer has half of the patch's pixels, 64 or twice 64, and stores them by TMA in boxes of 64 channels, 16 pixels across and
// 4 down, without those that lie outside (gemm/store_sm90a.cuh).
// Registers: 40 for the producer, 232 for the consumers (setmaxnreg), of which 128 are sums.
// Maps: 0 in [channels, width, height], 1 weight [channels, taps, out channels], 2 out [out channels, width, height], all with a 128-byte swizzle.
//
// Bytes: in kernel^2 times for each 256 or 128 channels of out, of which all but one come from L2; the weight from L2; out and residual once.
// FLOPs: 2 * pixels * out_channels * kernel^2 * in_channels. [1024, 1024, 128] to 128 channels, 3 x 3: 309 GFLOP; in and out 537 MB, 179 us at 3.0 TB/s under them.
// Predicted on H100: that layer 404 us, 4096 patches of 16 x 16 in 32 rounds of 18 stages of 1184 clk at 1.755 GHz (docs/kernels/conv2d.md); conv2d.cu took 960 us for it.
#include "conv2d.cuh"

#include "../gemm/store_sm90a.cuh"

namespace {

using namespace product;

/// Pixels of a patch across; rows of pixels in one box of out, 64 pixels.
constexpr int patch_width = 16, box_height = group_rows / patch_width;

/// Tiles of out: patches down, 128 or 256 channels across.
template <class Ring>
struct Patches {
    static constexpr int height = Ring::rows / patch_width;
    int wide, patches, across, chunks, steps;

    DEVICE explicit Patches(const Conv2dParams& p) {
        wide = (static_cast<int>(p.out_width) + patch_width - 1) / patch_width;
        patches = wide * ((static_cast<int>(p.out_height) + height - 1) / height);
        across = (static_cast<int>(p.out_channels) + Ring::columns - 1) / Ring::columns;
        chunks = (static_cast<int>(p.in_channels) + depth - 1) / depth;
        steps = static_cast<int>(p.kernel * p.kernel) * chunks;
    }

    DEVICE int tiles() const { return patches * across; }
};

/// Where a tile begins in out.
struct Corner {
    int y, x, channel;

    template <class Ring>
    DEVICE static Corner of(int tile, const Patches<Ring>& all) {
        const TilePlace place = tile_place(tile, all.patches, all.across);
        return {place.row / all.wide * Patches<Ring>::height, place.row % all.wide * patch_width, place.column * Ring::columns};
    }
};

/// 64 pixels of out, 16 across and 4 down, that leave by TMA: what gemm/store_sm90a.cuh wants to know of them.
struct LeavingPixels {
    int y, x, height, width, column, group;
    unsigned char* waiting_smem;
    int half;

    DEVICE LeavingPixels below(int to) const { return {y + to * box_height, x, height, width, column, group, waiting_smem, to}; }

    /// A pixel outside of the image counts as one behind the last.
    DEVICE int64_t row_of(int index) const {
        const int row = y + index / patch_width, at = x + index % patch_width;
        return row < height && at < width ? int64_t{row} * width + at : int64_t{height} * width;
    }

    DEVICE void store(unsigned box_smem, const TensorMap* out, int first_column) const { bulk_store(box_smem, out, first_column, x, y); }
};

/// One thread brings every tap and 64 channels of every tile of its block.
template <class Ring>
DEVICE void produce(const Conv2dParams& p, unsigned smem, const TensorMap* maps, const Patches<Ring>& all) {
    Turn<Ring> turn;
    const int taps = static_cast<int>(p.kernel * p.kernel), kernel = static_cast<int>(p.kernel);
    for (int tile = blockIdx.x; tile < all.tiles(); tile += gridDim.x) {
        const Corner corner = Corner::of(tile, all);
        const int left = corner.x - static_cast<int>(p.pad_left), top = corner.y - static_cast<int>(p.pad_top);
        for (int tap = 0; tap < taps; tap++) {
            for (int chunk = 0; chunk < all.chunks; chunk++) {
                bring(smem, turn, [&](unsigned stage, unsigned full) {
                    bulk_load(stage, &maps[0], full, chunk * depth, left + tap % kernel, top + tap / kernel);
                    bulk_load(stage + Ring::x_bytes, &maps[1], full, chunk * depth, tap, corner.channel);
                });
            }
        }
    }
}

template <class Ring, class Store>
DEVICE void consume(const Conv2dParams& p, unsigned char* memory, const TensorMap* out, const Patches<Ring>& all) {
    const int group = threadIdx.x / group_threads - 1;
    const unsigned smem = shared_address(memory);
    const Epilogue e = epilogue_of(p);
    Turn<Ring> turn;
    for (int tile = blockIdx.x; tile < all.tiles(); tile += gridDim.x) {
        const Corner corner = Corner::of(tile, all);
        const LeavingPixels pixels = {corner.y + group * Ring::halves * box_height, corner.x,       static_cast<int>(p.out_height),
                                      static_cast<int>(p.out_width),                corner.channel, group,
                                      memory + Ring::waiting + group * Ring::waiting_bytes,         0};
        consume_tile<Ring, Store, Ring::columns>(e, smem, turn, all.steps, out, pixels);
    }
    Store::finish();
}

template <class Ring, class Store>
DEVICE void convolve(const Conv2dParams& p, const TensorMap* maps) {
    DYNAMIC_SHARED(memory);
    const unsigned smem = shared_address(memory);
    start_ring<Ring>(smem);
    const Patches<Ring> all(p);
    if (threadIdx.x < group_threads) {
        release_registers<40>();
        if (threadIdx.x == 0) produce(p, smem, maps, all);
    } else {
        take_registers<232>();
        consume<Ring, Store>(p, memory, maps + 2, all);
    }
}

using Boxes = StoreBoxes<2>;

}  // namespace

#define THREADS __launch_bounds__((consumers + 1) * group_threads, 1)

extern "C" __global__ void THREADS conv2d_sm90a_128x256_bf16(const __grid_constant__ Conv2dParams p, const __grid_constant__ TensorMaps<3> maps) {
    convolve<Ring<256, 4, 1, Boxes::waiting_bytes>, Boxes>(p, maps.map);
}
KERNEL(conv2d_sm90a_128x256_bf16)

extern "C" __global__ void THREADS conv2d_sm90a_256x128_bf16(const __grid_constant__ Conv2dParams p, const __grid_constant__ TensorMaps<3> maps) {
    convolve<Ring<128, 4, 1, Boxes::waiting_bytes, 2>, Boxes>(p, maps.map);
}
KERNEL(conv2d_sm90a_256x128_bf16)
