// out[y, x, co] = residual[y, x, co] + bias[co] + sum_{ky, kx, ci} in[y * stride + ky - pad_top, x * stride + kx - pad_left, ci] * weight[co, ky, kx, ci]
//
// For every architecture from sm_80 on, and on sm_90a for what conv2d_sm90a.cu does not do: an implicit matrix product of the pixels' neighbourhoods [pixels, kernel * kernel * channels] with the weight, whose rows
// already lie so. fp32 sums in ascending order of (ky, kx, ci), rounded to bf16 with the bias and again with the residual.
//
// Mapping: blockIdx.x = tile of out, pixels down and channels across, in the order of gemm/raster.cuh; 4 warps a block; gemm/product_sm80.cuh multiplies. A neighbourhood is
// never stored: where the channels are a multiple of 8, a thread brings the 16-byte pieces of its pixels straight from the image by cp.async, a
// piece outside of the image as zeros; it keeps the tap and channel of its next piece and never divides after the start.
// `gather`: any other number of channels (3 of a picture), element by element.
//   128 x 128 pixels and channels for wide layers, 64 x 64 for small images, 128 x 16 for the last layer, whose 3 channels would leave 125 of 128 idle.
//
// Bytes: in kernel^2 times for each 128 channels of out, of which all but one come from L2; the weight from L2; out and residual once.
// FLOPs: 2 * pixels * out_channels * kernel^2 * in_channels. [1024, 1024, 128] to 128 channels, 3 x 3: 309 GFLOP; in and out 537 MB, 179 us at 3.0 TB/s under them.
// Predicted: A100 1100 us, RTX 4090 1936 us, both bound by products; H100 960 us (measured: 960), of whose 722 clk a stage products are 410 and waiting for fragments behind the barrier 280:
// there conv2d_sm90a.cu does what it can. docs/kernels/conv2d.md has the model and other layers.
#include "conv2d.cuh"

#include "../gemm/product_sm80.cuh"
#include "../gemm/raster.cuh"

namespace {

using namespace product;

/// What walks through a neighbourhood: the tap and channel of one element.
struct Walk {
    int tap_y, tap_x, channel;

    DEVICE static Walk at(const Conv2dParams& p, int element) {
        const int channels = static_cast<int>(p.in_channels), kernel = static_cast<int>(p.kernel), tap = element / channels;
        return {tap / kernel, tap % kernel, element % channels};
    }

    /// A stage further on.
    DEVICE void advance(const Conv2dParams& p) {
        channel += depth;
        while (channel >= static_cast<int>(p.in_channels)) {
            channel -= static_cast<int>(p.in_channels);
            if (++tap_x == static_cast<int>(p.kernel)) {
                tap_x = 0;
                tap_y++;
            }
        }
    }
};

/// Neighbourhoods of a tile's pixels. `is_vector`: the channels are a multiple of 8 and the image is aligned.
template <int rows, int threads, bool is_vector>
struct Neighbourhoods {
    static constexpr int rows_a_pass = threads / pieces, passes = rows / rows_a_pass;
    static constexpr int nowhere = -(1 << 30);  // a pixel behind the last: every tap of it lies outside

    const Conv2dParams& p;
    int top[passes], left[passes];  // of the first tap, in the image
    Walk walk;
    int element;  // of this thread's next piece

    DEVICE Neighbourhoods(const Conv2dParams& params, int64_t first_pixel, int thread) : p(params) {
        const int64_t pixels = int64_t{p.out_height} * p.out_width;
#pragma unroll
        for (int pass = 0; pass < passes; pass++) {
            const int64_t pixel = first_pixel + pass * rows_a_pass + thread / pieces;
            const int y = static_cast<int>(pixel / p.out_width), x = static_cast<int>(pixel - int64_t{y} * p.out_width);
            top[pass] = pixel < pixels ? y * static_cast<int>(p.stride) - static_cast<int>(p.pad_top) : nowhere;
            left[pass] = x * static_cast<int>(p.stride) - static_cast<int>(p.pad_left);
        }
        element = thread % pieces * 8;
        walk = Walk::at(p, element);
    }

    /// Where the image has what this tap sees; null outside.
    DEVICE const bf16* find(int pass, const Walk& at) const {
        const int y = top[pass] + at.tap_y, x = left[pass] + at.tap_x;
        const bool is_inside = at.tap_y < static_cast<int>(p.kernel) && y >= 0 && y < static_cast<int>(p.height) && x >= 0 &&
                               x < static_cast<int>(p.width);
        if (!is_inside) return nullptr;
        return reinterpret_cast<const bf16*>(p.x) + (int64_t{y} * p.width + x) * p.in_channels + at.channel;
    }

    DEVICE void copy(unsigned char* stage_smem, int thread) {
#pragma unroll
        for (int pass = 0; pass < passes; pass++) {
            unsigned char* target = stage_smem + piece_offset(pass * rows_a_pass + thread / pieces, thread % pieces);
            if constexpr (is_vector) {
                const bf16* source = find(pass, walk);
                const bool is_inside = source != nullptr;
                copy_async16(shared_address(target), is_inside ? source : reinterpret_cast<const bf16*>(p.x), is_inside);
            } else {
                *reinterpret_cast<Packed8*>(target) = gather(pass);
            }
        }
        element += depth;
        if constexpr (is_vector) walk.advance(p);
    }

    /// Eight elements, each from its own place.
    DEVICE Packed8 gather(int pass) const {
        float value[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const bf16* source = find(pass, Walk::at(p, element + i));
            value[i] = source != nullptr ? __bfloat162float(*source) : 0.0f;
        }
        return pack8(value);
    }
};

template <class Tile, bool is_vector>
DEVICE void convolve(const Conv2dParams& p) {
    DYNAMIC_SHARED(smem);
    const int inner = static_cast<int>(p.kernel * p.kernel * p.in_channels);
    const int64_t pixels = int64_t{p.out_height} * p.out_width;
    const int down = static_cast<int>((pixels + Tile::rows - 1) / Tile::rows);
    const int across = (static_cast<int>(p.out_channels) + Tile::columns - 1) / Tile::columns;
    const TilePlace place = tile_place(blockIdx.x, down, across);
    const int64_t pixel = int64_t{place.row} * Tile::rows;
    const int channel = place.column * Tile::columns, thread = threadIdx.x;
    Neighbourhoods<Tile::rows, Tile::threads, is_vector> x(p, pixel, thread);
    MatrixRows<Tile::columns, Tile::threads, is_vector> weight(reinterpret_cast<const bf16*>(p.weight), inner, channel, p.out_channels, inner,
                                                               thread);
    multiply_tile<Tile>(x, weight, epilogue_of(p), smem, inner, pixel, channel);
}

using Tile128x128 = Tile<128, 128, 2, 2, 3>;
using Tile64x64 = Tile<64, 64, 2, 2, 4>;
using Tile128x16 = Tile<128, 16, 4, 1, 4>;

}  // namespace

extern "C" __global__ void __launch_bounds__(128, 2) conv2d_128x128_bf16(const __grid_constant__ Conv2dParams p) {
    convolve<Tile128x128, true>(p);
}
KERNEL(conv2d_128x128_bf16)

extern "C" __global__ void __launch_bounds__(128, 3) conv2d_64x64_bf16(const __grid_constant__ Conv2dParams p) {
    convolve<Tile64x64, true>(p);
}
KERNEL(conv2d_64x64_bf16)

extern "C" __global__ void __launch_bounds__(128, 4) conv2d_128x16_bf16(const __grid_constant__ Conv2dParams p) {
    convolve<Tile128x16, true>(p);
}
KERNEL(conv2d_128x16_bf16)

extern "C" __global__ void __launch_bounds__(128, 2) conv2d_64x64_gather_bf16(const __grid_constant__ Conv2dParams p) {
    convolve<Tile64x64, false>(p);
}
KERNEL(conv2d_64x64_gather_bf16)
