// out[r, c] = exp(scale * x[r, c] - m[r]) / sum_j exp(scale * x[r, j] - m[r]), m[r] the largest scale * x[r, j]
//
// fp32 inside, rounded once; x is fp32 (scores as linear_sums leaves them) or bf16.
//
// Mapping: one block a row. Long rows of whole eights (4104 to 16384 columns, the scores of a picture) are held in registers by 512 threads, four eights of
// columns each, whose loads are all under way at once: largest value, exponentials and their sum, store. Others go by 256 threads; a thread takes 8
// neighbouring columns of every 2048, 16-byte accesses where rows are aligned, else one by one. First each thread carries its largest value and its sum of
// exponentials along (Milakov and Gimelshein 2018), then the lanes of a warp and the warps are joined in a fixed order, then the row is read a
// second time, from L1 or L2, and written.
// Bytes: x once, out once: fp32 to bf16 6 rows columns. [4096, 16384] at 3.0 TB/s: 134 us.
#include "softmax.h"

#include "../base/cuda.cuh"
#include "../base/ptx.cuh"
#include "../base/reduce.cuh"
#include "../base/vec.cuh"
#include "row.cuh"

namespace {

constexpr int threads = 256, warps = threads / 32, step = threads * 8;
constexpr float log2_e = 1.4426950408889634f;

/// One row: x in units of which 2^x is the exponential.
template <class In>
struct Row {
    const In* x;  // [columns]
    bf16* out;    // [columns]
    int columns;
    float factor;
    bool is_aligned;

    /// Columns from `first` on, 8 at most; minus infinity behind the end.
    DEVICE void load(int first, float (&value)[8]) const {
        if (is_aligned && first + 8 <= columns) {
            load_whole(x + first, value);
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++) value[i] = first + i < columns ? to_float(x[first + i]) : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < 8; i++) value[i] = first + i < columns ? value[i] * factor : -INFINITY;
    }

    DEVICE void store(int first, const float (&value)[8]) const {
        if (is_aligned && first + 8 <= columns) return store_whole(out + first, value);
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (first + i < columns) out[first + i] = __float2bfloat16_rn(value[i]);
    }
};

/// The largest value so far, and the sum of exponentials relative to it.
struct Running {
    float largest, sum;
};

/// Where nothing but minus infinity was seen, exponentials are taken relative to 0.
DEVICE float offset_of(float largest) { return largest == -INFINITY ? 0.0f : largest; }

DEVICE Running join(const Running& a, const Running& b) {
    const float largest = fmaxf(a.largest, b.largest), offset = offset_of(largest);
    return {largest, a.sum * exp2_approx(a.largest - offset) + b.sum * exp2_approx(b.largest - offset)};
}

template <class In>
DEVICE Running measure(const Row<In>& row) {
    Running running = {-INFINITY, 0.0f};
    for (int c = threadIdx.x * 8; c < row.columns; c += step) {
        float value[8];
        row.load(c, value);
        Running own = {value[0], 0.0f};
#pragma unroll
        for (int i = 1; i < 8; i++) own.largest = fmaxf(own.largest, value[i]);
        const float offset = offset_of(own.largest);
#pragma unroll
        for (int i = 0; i < 8; i++) own.sum += exp2_approx(value[i] - offset);
        running = join(running, own);
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const Running other = {__shfl_xor_sync(full_warp, running.largest, distance), __shfl_xor_sync(full_warp, running.sum, distance)};
        // The same order in both lanes, or they would differ in the last bit.
        running = threadIdx.x & distance ? join(other, running) : join(running, other);
    }
    return running;
}

/// The warps' results joined in their order, in every thread.
DEVICE Running join_warps(const Running& own) {
    SHARED_ARRAY(float, largest_smem, warps);
    SHARED_ARRAY(float, sum_smem, warps);
    if (threadIdx.x % 32 == 0) {
        largest_smem[threadIdx.x / 32] = own.largest;
        sum_smem[threadIdx.x / 32] = own.sum;
    }
    __syncthreads();
    Running all = {largest_smem[0], sum_smem[0]};
#pragma unroll
    for (int warp = 1; warp < warps; warp++) all = join(all, {largest_smem[warp], sum_smem[warp]});
    return all;
}

template <class In>
DEVICE void soften(const SoftmaxParams& p) {
    Row<In> row;
    row.x = reinterpret_cast<const In*>(p.x) + blockIdx.x * p.x_stride;
    row.out = reinterpret_cast<bf16*>(p.out) + blockIdx.x * p.out_stride;
    row.columns = static_cast<int>(p.columns);
    row.factor = p.scale * log2_e;
    row.is_aligned = (reinterpret_cast<uint64_t>(row.x) | reinterpret_cast<uint64_t>(row.out)) % 16 == 0;
    const Running all = join_warps(measure(row));
    const float offset = offset_of(all.largest), inverse = 1.0f / all.sum;
    for (int c = threadIdx.x * 8; c < row.columns; c += step) {
        float value[8];
        row.load(c, value);
#pragma unroll
        for (int i = 0; i < 8; i++) value[i] = exp2_approx(value[i] - offset) * inverse;
        row.store(c, value);
    }
}

/// Threads of a block that holds a row in registers, and the eights of each.
constexpr int held_threads = 512, held_eights = 4;

/// A row of whole eights, at most 8 * held_eights * held_threads columns, both addresses multiples of 16.
template <class In>
DEVICE void soften_held(const SoftmaxParams& p) {
    SUM_SLOTS(largest_slots, held_threads);
    SUM_SLOTS(sum_slots, held_threads);
    const In* x = reinterpret_cast<const In*>(p.x) + blockIdx.x * p.x_stride;
    bf16* out = reinterpret_cast<bf16*>(p.out) + blockIdx.x * p.out_stride;
    const float factor = p.scale * log2_e;
    float value[held_eights][8];
#pragma unroll
    for (int e = 0; e < held_eights; e++) {
        const unsigned column = column_of<held_threads>(e);
        if (column < p.columns) {
            load_whole(x + column, value[e]);
        } else {
#pragma unroll
            for (int i = 0; i < 8; i++) value[e][i] = -INFINITY;
        }
    }
    float largest = -INFINITY;
#pragma unroll
    for (int e = 0; e < held_eights; e++) {
        if (column_of<held_threads>(e) >= p.columns) continue;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            value[e][i] *= factor;
            largest = fmaxf(largest, value[e][i]);
        }
    }
    const float offset = offset_of(block_max<held_threads>(largest, largest_slots));
    Sums sums;
#pragma unroll
    for (int e = 0; e < held_eights; e++) {
#pragma unroll
        for (int i = 0; i < 8; i++) value[e][i] = exp2_approx(value[e][i] - offset);
        sums.add(value[e]);
    }
    const float inverse = 1.0f / block_sum<held_threads>(sums.total(), sum_slots);
#pragma unroll
    for (int e = 0; e < held_eights; e++) {
        const unsigned column = column_of<held_threads>(e);
        if (column >= p.columns) continue;
#pragma unroll
        for (int i = 0; i < 8; i++) value[e][i] *= inverse;
        store_whole(out + column, value[e]);
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(threads) softmax_bf16(const __grid_constant__ SoftmaxParams p) {
    wait_for_launch_before();
    soften<bf16>(p);
}
KERNEL(softmax_bf16)

extern "C" __global__ void __launch_bounds__(threads) softmax_f32_bf16(const __grid_constant__ SoftmaxParams p) {
    wait_for_launch_before();
    soften<float>(p);
}
KERNEL(softmax_f32_bf16)

extern "C" __global__ void __launch_bounds__(held_threads, 2) softmax_held_bf16(const __grid_constant__ SoftmaxParams p) {
    wait_for_launch_before();
    soften_held<bf16>(p);
}
KERNEL(softmax_held_bf16)

extern "C" __global__ void __launch_bounds__(held_threads, 2) softmax_held_f32_bf16(const __grid_constant__ SoftmaxParams p) {
    wait_for_launch_before();
    soften_held<float>(p);
}
KERNEL(softmax_held_f32_bf16)
