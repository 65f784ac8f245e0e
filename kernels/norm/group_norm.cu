// out[p, c] = act((x[p, c] - mean_g) * rsqrt(var_g + eps) * weight[c] + bias[c]), channels last, group g of channels over all pixels
//
// Mapping: three launches, no atomics, so the same bits on every run:
// 1. group_norm_partial: each block of 256 threads takes all channels of some pixels, each thread eight channels of 8 or, of large images, 32 pixels, four 16-byte
//    loads under way at a time; it writes mean and sum of squared deviations of each group. A thread sums differences from its first pixel, so that
//    a large mean costs no digits; what is squared is at most as often the variance as a thread has pixels.
// 2. group_norm_finish: one block a group adds the partial means, then the deviations from the common mean (Chan, Golub and LeVeque 1983), and leaves
//    factor and offset of each channel.
// 3. group_norm_apply: eight channels a thread, whose factors stay in registers while it goes down 16 pixels, four loads under way at a time. Blocks go
//    through the image from its end, which the first launch has read last: as much of it as L2 holds is not read from memory again.
// Sums within a block: over a thread's pixels, over the block's rows of threads, over the group's channels, each in order.
// Bytes: x twice, out once; every access is 16 bytes wide. [512 * 512, 256] bf16: 403 MB, 134 us at 3.0 TB/s, less what L2 keeps between the launches (30 of an H100's
// 50 MB save 10 us).
#include "group_norm.h"

#include "../base/activation.cuh"
#include "../base/cuda.cuh"
#include "../base/ptx.cuh"
#include "../base/tile.cuh"
#include "../base/vec.cuh"
#include "row.cuh"

namespace {

constexpr unsigned threads = tile_threads;
/// Channels that one block can take: eight a thread.
constexpr unsigned channels_max = 8 * threads;
/// Pixels whose loads a thread has under way at a time.
constexpr unsigned pixels_at_once = 4;
/// Pixels that a thread of the last launch takes, and whose loads it has under way at a time.
constexpr unsigned pixels_applied = 16, pixels_applied_at_once = 4;

/// Mean, and the sum of squared deviations.
struct Moments {
    float mean, second;
};

/// Pixels that one thread sums up: `thread_pixels` in group_norm.rs.
DEVICE unsigned thread_pixels(const GroupNormParams& p) { return static_cast<uint64_t>(p.pixels) * p.channels < 1u << 25 ? 8 : 32; }

/// The groups of one block: as many whole groups as have `channels_max` channels.
struct Part {
    unsigned width;     // channels of a group
    unsigned groups;    // of this block
    unsigned first;     // group
    unsigned channels;  // of this block
    unsigned lanes;     // threads along the channels
    unsigned rows;      // threads along the pixels
};

DEVICE Part part_of(const GroupNormParams& p) {
    Part part;
    part.width = p.channels / p.groups;
    const unsigned whole = min(p.groups, channels_max / part.width);
    part.first = blockIdx.y * whole;
    part.groups = min(whole, p.groups - part.first);
    part.channels = part.groups * part.width;
    // By the largest part, so that all parts have the same blocks of pixels.
    part.lanes = tile_lanes(whole * part.width);
    part.rows = threads / part.lanes;
    return part;
}

/// Pixels of one block of `partial`: by the first part, which is the largest.
DEVICE unsigned block_pixels_of(const GroupNormParams& p) {
    const unsigned width = p.channels / p.groups;
    return threads / tile_lanes(min(p.groups, channels_max / width) * width) * thread_pixels(p);
}

/// What multiplies each channel.
DEVICE float* factors_of(const GroupNormParams& p) { return reinterpret_cast<float*>(p.workspace); }

/// What is added to each channel.
DEVICE float* offsets_of(const GroupNormParams& p) { return factors_of(p) + p.channels; }

/// Behind those, whose count is even.
DEVICE Moments* partials(const GroupNormParams& p) { return reinterpret_cast<Moments*>(factors_of(p) + 2 * static_cast<uint64_t>(p.channels)); }

/// Replaces sums[0][c] by the sum over all rows of threads, then `each(g, total)` with the sum over each group's channels.
template <class Each>
DEVICE void add_up(float* sums, const Part& part, const float (&mine)[8], Each each) {
    const unsigned columns = part.lanes * 8, row = threadIdx.x / part.lanes, column = threadIdx.x % part.lanes * 8;
    store_whole(sums + row * columns + column, mine);
    __syncthreads();
    for (unsigned c = threadIdx.x; c < part.channels; c += threads) {
        float total = 0.0f;
        for (unsigned r = 0; r < part.rows; r++) total += sums[r * columns + c];
        sums[c] = total;
    }
    __syncthreads();
    for (unsigned g = threadIdx.x; g < part.groups; g += threads) {
        float total = 0.0f;
        for (unsigned i = 0; i < part.width; i++) total += sums[g * part.width + i];
        each(g, total);
    }
    __syncthreads();
}

/// Eight channels of one thread's pixels: their means and sums of squared deviations from those.
struct Channels {
    float mean[8], second[8];
};

/// Eight channels of `count` pixels, `stride` elements apart, of which `width` channels exist.
template <bool is_whole>
DEVICE Channels channels_of(const bf16* x, unsigned width, unsigned count, unsigned stride) {
    float first[8], sum[8], squares[8];
    const auto load = [&](unsigned pixel) {
        if (is_whole) return load8(x + pixel * stride);
        float value[8];
        load_eight(x + pixel * stride, width, value);
        return pack8(value);
    };
    unpack8(count > 0 ? load(0) : Packed8{0, 0, 0, 0}, first);
#pragma unroll
    for (int i = 0; i < 8; i++) sum[i] = squares[i] = 0.0f;
#pragma unroll 1
    for (unsigned pixel = 0; pixel < count; pixel += pixels_at_once) {
        Packed8 held[pixels_at_once];
#pragma unroll
        for (unsigned k = 0; k < pixels_at_once; k++) held[k] = pixel + k < count ? load(pixel + k) : Packed8{0, 0, 0, 0};
#pragma unroll
        for (unsigned k = 0; k < pixels_at_once; k++) {
            if (pixel + k >= count) continue;
            float value[8];
            unpack8(held[k], value);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float difference = value[i] - first[i];
                sum[i] += difference;
                squares[i] = fmaf(difference, difference, squares[i]);
            }
        }
    }
    const float inverse = 1.0f / static_cast<float>(max(count, 1u));
    Channels channels;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float mean = sum[i] * inverse;
        channels.mean[i] = first[i] + mean;
        channels.second[i] = fmaf(-sum[i], mean, squares[i]);
    }
    return channels;
}

template <bool is_whole>
DEVICE void partial(const GroupNormParams& p) {
    SHARED_ARRAY(float4, sums_smem, channels_max / 4);
    SHARED_ARRAY(float, means_smem, channels_max);
    float* sums = reinterpret_cast<float*>(sums_smem);
    wait_for_launch_before();
    if (p.pixels == 0) return;
    const Part part = part_of(p);
    const unsigned column = threadIdx.x % part.lanes * 8, row = threadIdx.x / part.lanes;
    const unsigned width = column < part.channels ? min(part.channels - column, 8u) : 0;
    const unsigned block_pixels = part.rows * thread_pixels(p), first = blockIdx.x * block_pixels;
    const unsigned pixels = min(block_pixels, p.pixels - first);
    const unsigned count = width > 0 && row < pixels ? (pixels - 1 - row) / part.rows + 1 : 0;
    const bf16* x = reinterpret_cast<const bf16*>(p.x) + static_cast<uint64_t>(first + row) * p.channels + part.first * part.width + column;
    // What does not exist is 0.
    const Channels mine = channels_of<is_whole>(x, width, count, part.rows * p.channels);

    const float all = static_cast<float>(pixels) * static_cast<float>(part.width), own = static_cast<float>(count);
    float sum[8];
#pragma unroll
    for (int i = 0; i < 8; i++) sum[i] = own * mine.mean[i];
    add_up(sums, part, sum, [&](unsigned g, float total) { means_smem[g] = total / all; });
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float difference = i < width ? mine.mean[i] - means_smem[(column + i) / part.width] : 0.0f;
        sum[i] = fmaf(own * difference, difference, mine.second[i]);
    }
    Moments* out = partials(p) + static_cast<uint64_t>(blockIdx.x) * p.groups + part.first;
    add_up(sums, part, sum, [&](unsigned g, float total) { out[g] = {means_smem[g], total}; });
}

template <bool is_whole>
DEVICE void apply(const GroupNormParams& p) {
    wait_for_launch_before();
    if (p.pixels == 0) return;
    const unsigned lanes = tile_lanes(p.channels), column = (blockIdx.x * lanes + threadIdx.x % lanes) * 8;
    if (column >= p.channels) return;
    const unsigned count = is_whole ? 8 : min(p.channels - column, 8u), rows = threads / lanes;
    float factor[8], offset[8];
    load_eight(factors_of(p) + column, count, factor);
    load_eight(offsets_of(p) + column, count, offset);
    const unsigned block_pixels = rows * pixels_applied, blocks = (p.pixels - 1) / block_pixels + 1;
#pragma unroll 1
    for (unsigned block = blockIdx.y; block < blocks; block += gridDim.y) {
        const unsigned first = (blocks - 1 - block) * block_pixels + threadIdx.x / lanes;
#pragma unroll 1
        for (unsigned i = 0; i < pixels_applied; i += pixels_applied_at_once) {
            Packed8 held[pixels_applied_at_once];
            const auto offset_of = [&](unsigned k) { return static_cast<uint64_t>(first + (i + k) * rows) * p.channels + column; };
#pragma unroll
            for (unsigned k = 0; k < pixels_applied_at_once; k++) {
                if (first + (i + k) * rows >= p.pixels) continue;
                const bf16* x = reinterpret_cast<const bf16*>(p.x) + offset_of(k);
                if (is_whole) {
                    held[k] = load8_once(x);
                } else {
                    float value[8];
                    load_eight(x, count, value);
                    held[k] = pack8(value);
                }
            }
#pragma unroll
            for (unsigned k = 0; k < pixels_applied_at_once; k++) {
                if (first + (i + k) * rows >= p.pixels) continue;
                float value[8];
                unpack8(held[k], value);
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    value[j] = fmaf(value[j], factor[j], offset[j]);
                    if (p.silu != 0) value[j] = activate(value[j], 4);
                }
                bf16* out = reinterpret_cast<bf16*>(p.out) + offset_of(k);
                if (is_whole)
                    store8(out, pack8(value));
                else
                    store_eight(out, count, value);
            }
        }
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(threads, 4) group_norm_partial_bf16(const __grid_constant__ GroupNormParams p) { partial<true>(p); }
KERNEL(group_norm_partial_bf16)

extern "C" __global__ void __launch_bounds__(threads) group_norm_partial_any_bf16(const __grid_constant__ GroupNormParams p) { partial<false>(p); }
KERNEL(group_norm_partial_any_bf16)

extern "C" __global__ void __launch_bounds__(threads) group_norm_finish_bf16(const __grid_constant__ GroupNormParams p) {
    SUM_SLOTS(mean_slots, threads);
    SUM_SLOTS(variance_slots, threads);
    wait_for_launch_before();
    if (p.pixels == 0) return;
    const unsigned width = p.channels / p.groups, group = blockIdx.x;
    const unsigned block_pixels = block_pixels_of(p);
    const unsigned blocks = (p.pixels - 1) / block_pixels + 1;
    const Moments* moments = partials(p) + group;
    const auto elements = [&](unsigned block) {
        return static_cast<float>(min(block_pixels, p.pixels - block * block_pixels)) * static_cast<float>(width);
    };
    const float all = static_cast<float>(p.pixels) * static_cast<float>(width);
    float sum = 0.0f;
    for (unsigned b = threadIdx.x; b < blocks; b += threads) sum += elements(b) * moments[static_cast<uint64_t>(b) * p.groups].mean;
    const float mean = block_sum<threads>(sum, mean_slots) / all;
    sum = 0.0f;
    for (unsigned b = threadIdx.x; b < blocks; b += threads) {
        const Moments m = moments[static_cast<uint64_t>(b) * p.groups];
        sum += m.second + elements(b) * (m.mean - mean) * (m.mean - mean);
    }
    const float inverse = rsqrtf(block_sum<threads>(sum, variance_slots) / all + p.eps);
    for (unsigned c = group * width + threadIdx.x; c < (group + 1) * width; c += threads) {
        const float factor = to_float(reinterpret_cast<const bf16*>(p.weight)[c]) * inverse;
        factors_of(p)[c] = factor;
        offsets_of(p)[c] = fmaf(-mean, factor, to_float(reinterpret_cast<const bf16*>(p.bias)[c]));
    }
}
KERNEL(group_norm_finish_bf16)

extern "C" __global__ void __launch_bounds__(threads, 4) group_norm_apply_bf16(const __grid_constant__ GroupNormParams p) { apply<true>(p); }
KERNEL(group_norm_apply_bf16)

extern "C" __global__ void __launch_bounds__(threads) group_norm_apply_any_bf16(const __grid_constant__ GroupNormParams p) { apply<false>(p); }
KERNEL(group_norm_apply_any_bf16)
