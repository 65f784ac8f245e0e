// out[p, c] = act((x[p, c] - mean_g) * rsqrt(var_g + eps) * weight[c] + bias[c]), channels last, group g of channels over all pixels
//
// Mapping: three launches, no atomics, so the same bits on every run:
// 1. group_norm_partial: each block of 256 threads takes 16384 elements (all channels of some pixels), holds them in registers, and writes mean and
//    sum of squared deviations of each group, two passes over the registers.
// 2. group_norm_finish: one block a group adds the partial means, then the deviations from the common mean (Chan, Golub and LeVeque 1983).
// 3. group_norm_apply: eight channels a thread, whose factors stay in registers while it goes down some pixels.
// Sums within a block: over a thread's eight pixels, over the block's rows of threads, over the group's channels, each in order.
// Bytes: x twice, out once; every access is 16 bytes wide. [1024 * 1024, 128] bf16: 805 MB, 268 us at 3.0 TB/s.
#include "group_norm.h"

#include "../base/activation.cuh"
#include "../base/cuda.cuh"
#include "../base/tile.cuh"
#include "../base/vec.cuh"

namespace {

constexpr unsigned threads = tile_threads;
/// Channels that one block can take: eight a thread.
constexpr unsigned channels_max = 8 * threads;
/// Pixels that one thread holds.
constexpr unsigned pixels_of_thread = 8;
/// Mean, and the sum of squared deviations or the inverse deviation.
struct Moments {
    float mean, second;
};

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
    return threads / tile_lanes(min(p.groups, channels_max / width) * width) * pixels_of_thread;
}

DEVICE Moments* partials(const GroupNormParams& p) { return reinterpret_cast<Moments*>(p.workspace); }

/// Behind the partial ones, of which there are as many as blocks in x.
DEVICE Moments* final_moments(const GroupNormParams& p, unsigned blocks) { return partials(p) + static_cast<uint64_t>(blocks) * p.groups; }

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

/// The sum over the block of one value a thread, in every thread: by halves.
DEVICE float block_sum(float* sums, float value) {
    sums[threadIdx.x] = value;
    for (unsigned half = threads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    __syncthreads();
    const float total = sums[0];
    __syncthreads();
    return total;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(threads) group_norm_partial_bf16(const __grid_constant__ GroupNormParams p) {
    SHARED_ARRAY(float4, sums_smem, channels_max / 4);
    SHARED_ARRAY(float, means_smem, channels_max);
    float* sums = reinterpret_cast<float*>(sums_smem);
    if (p.pixels == 0) return;
    const Part part = part_of(p);
    const unsigned column = threadIdx.x % part.lanes * 8, columns = part.channels;
    const unsigned count = column < columns ? min(columns - column, 8u) : 0;
    const unsigned block_pixels = part.rows * pixels_of_thread, first = blockIdx.x * block_pixels;
    const unsigned pixels = min(block_pixels, p.pixels - first);
    const bf16* x = reinterpret_cast<const bf16*>(p.x) + static_cast<uint64_t>(first) * p.channels + part.first * part.width + column;

    Packed8 held[pixels_of_thread];
#pragma unroll
    for (unsigned i = 0; i < pixels_of_thread; i++) {
        const unsigned pixel = i * part.rows + threadIdx.x / part.lanes;
        float value[8];
        load_eight(x + static_cast<uint64_t>(pixel) * p.channels, pixel < pixels ? count : 0, value);
        held[i] = pack8(value);
    }
    // What does not exist is 0, here and, with a mean of 0, below.
    float sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
#pragma unroll
    for (unsigned i = 0; i < pixels_of_thread; i++) {
        float value[8];
        unpack8(held[i], value);
#pragma unroll
        for (int j = 0; j < 8; j++) sum[j] += value[j];
    }
    const float elements = static_cast<float>(pixels) * static_cast<float>(part.width);
    add_up(sums, part, sum, [&](unsigned g, float total) { means_smem[g] = total / elements; });

    float mean[8];
#pragma unroll
    for (int j = 0; j < 8; j++) {
        mean[j] = j < count ? means_smem[(column + j) / part.width] : 0.0f;
        sum[j] = 0.0f;
    }
#pragma unroll
    for (unsigned i = 0; i < pixels_of_thread; i++) {
        const bool exists = i * part.rows + threadIdx.x / part.lanes < pixels;
        float value[8];
        unpack8(held[i], value);
#pragma unroll
        for (int j = 0; j < 8; j++) sum[j] += exists ? (value[j] - mean[j]) * (value[j] - mean[j]) : 0.0f;
    }
    Moments* out = partials(p) + static_cast<uint64_t>(blockIdx.x) * p.groups + part.first;
    add_up(sums, part, sum, [&](unsigned g, float total) { out[g] = {means_smem[g], total}; });
}
KERNEL(group_norm_partial_bf16)

extern "C" __global__ void __launch_bounds__(threads) group_norm_finish_bf16(const __grid_constant__ GroupNormParams p) {
    SHARED_ARRAY(float, sums_smem, threads);
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
    const float mean = block_sum(sums_smem, sum) / all;
    sum = 0.0f;
    for (unsigned b = threadIdx.x; b < blocks; b += threads) {
        const Moments m = moments[static_cast<uint64_t>(b) * p.groups];
        sum += m.second + elements(b) * (m.mean - mean) * (m.mean - mean);
    }
    const float variance = block_sum(sums_smem, sum) / all;
    if (threadIdx.x == 0) final_moments(p, blocks)[group] = {mean, rsqrtf(variance + p.eps)};
}
KERNEL(group_norm_finish_bf16)

extern "C" __global__ void __launch_bounds__(threads) group_norm_apply_bf16(const __grid_constant__ GroupNormParams p) {
    if (p.pixels == 0) return;
    const unsigned width = p.channels / p.groups;
    const unsigned block_pixels = block_pixels_of(p);
    const Moments* moments = final_moments(p, (p.pixels - 1) / block_pixels + 1);
    const unsigned lanes = tile_lanes(p.channels), column = (blockIdx.x * lanes + threadIdx.x % lanes) * 8;
    if (column >= p.channels) return;
    const unsigned count = min(p.channels - column, 8u), rows = threads / lanes;
    float mean[8], factor[8], bias[8];
    load_eight(reinterpret_cast<const bf16*>(p.weight) + column, count, factor);
    load_eight(reinterpret_cast<const bf16*>(p.bias) + column, count, bias);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const Moments m = moments[(column + (i < count ? i : 0)) / width];
        mean[i] = m.mean;
        factor[i] *= m.second;
    }
    for (unsigned pixel = blockIdx.y * rows + threadIdx.x / lanes; pixel < p.pixels; pixel += gridDim.y * rows) {
        const uint64_t offset = static_cast<uint64_t>(pixel) * p.channels + column;
        float value[8];
        load_eight(reinterpret_cast<const bf16*>(p.x) + offset, count, value);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            value[i] = (value[i] - mean[i]) * factor[i] + bias[i];
            if (p.silu != 0) value[i] = activate(value[i], 4);
        }
        store_eight(reinterpret_cast<bf16*>(p.out) + offset, count, value);
    }
}
KERNEL(group_norm_apply_bf16)
