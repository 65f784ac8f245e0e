// One row of bf16 columns by one block: how it is shared out, loaded and summed.
//
// Thread t takes the eights t, t + threads, t + 2 threads, .. of the row. A kernel for one width holds its few eights a thread in registers from the first
// load to the last store; its rows are whole and lie at multiples of 16 bytes (rows.rs chooses), so nothing is checked on the way. A kernel for any row
// checks each eight and reads the row again for each pass, from L1. Both add the same terms in the same order: four sums side by side in a
// thread, then the lanes by halves, then the warps in their order. So which of them does a row changes no bit of the result.
#pragma once
#include "../base/cuda.cuh"
#include "../base/reduce.cuh"
#include "../base/vec.cuh"

namespace {

/// First column of a thread's eight.
template <int threads>
DEVICE unsigned column_of(int eight) {
    return (eight * threads + threadIdx.x) * 8;
}

/// A thread's eights of a row of exactly 8 * eights * threads columns, packed. All loads are under way before the first is used.
template <int threads, int eights>
DEVICE void load_row(const bf16* row, Packed8 (&held)[eights]) {
#pragma unroll
    for (int e = 0; e < eights; e++) held[e] = load8(row + column_of<threads>(e));
}

/// What a thread adds up, four sums side by side: one alone would wait for each addition.
struct Sums {
    float part[4] = {0.0f, 0.0f, 0.0f, 0.0f};

    DEVICE void add(const float (&x)[8]) {
#pragma unroll
        for (int i = 0; i < 8; i++) part[i % 4] += x[i];
    }
    DEVICE void add_squares(const float (&x)[8]) {
#pragma unroll
        for (int i = 0; i < 8; i++) part[i % 4] = fmaf(x[i], x[i], part[i % 4]);
    }
    DEVICE float total() const { return (part[0] + part[1]) + (part[2] + part[3]); }
};

/// The sum over the block of one value a thread, in every thread. `slots` is for this sum alone, a number for each warp.
template <int threads>
DEVICE float block_sum(float value, float* slots) {
    constexpr int warps = threads / 32;
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = slots[0];
#pragma unroll
    for (int warp = 1; warp < warps; warp++) sum += slots[warp];
    return sum;
}

/// The largest of one value a thread, in every thread.
template <int threads>
DEVICE float block_max(float value, float* slots) {
    value = warp_max(value);
    if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = value;
    __syncthreads();
    float largest = slots[0];
#pragma unroll
    for (int warp = 1; warp < threads / 32; warp++) largest = fmaxf(largest, slots[warp]);
    return largest;
}

/// The sum for a block of as many threads as it was launched with.
DEVICE float block_sum(float value, float* slots) {
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = slots[0];
    for (unsigned warp = 1; warp < blockDim.x / 32; warp++) sum += slots[warp];
    return sum;
}

/// Threads that a block may have whose kernel does not know how many.
constexpr int threads_max = 512;

/// Shared memory for one `block_sum` or `block_max` of that many threads, aligned so that it is read 16 bytes at a time.
#define SUM_SLOTS(name, threads)                                \
    SHARED_ARRAY(float4, name##_smem, ((threads) + 127) / 128); \
    float* const name = reinterpret_cast<float*>(name##_smem)

}  // namespace
