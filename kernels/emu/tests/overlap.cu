// Launches of one stream. test_overlap_first: out[i] = 2 x[i]. test_overlap_N, which overlaps it: x[i] = out[n + i] = out[i] + out[2 n + i], where out[2 n ..] holds
// weights that no launch writes, so that they may be read before the wait. n = 128 blocks.
#include "../../base/cuda.cuh"
#include "../../base/ptx.cuh"
#include "params.cuh"

namespace {

constexpr unsigned threads = 128;

struct Places {
    float* x;
    float* doubled;
    float* sums;
    const float* weights;
};

DEVICE Places places(const TestParams& p) {
    const unsigned n = gridDim.x * threads, i = blockIdx.x * threads + threadIdx.x;
    float* out = reinterpret_cast<float*>(p.out) + i;
    return {reinterpret_cast<float*>(p.x) + i, out, out + n, out + 2 * n};
}

__global__ void first(const __grid_constant__ TestParams p) {
    const Places at = places(p);
    *at.doubled = 2.0f * *at.x;
}

/// Touches nothing that `first` touches, and lets others begin before it has waited.
template <bool waits>
__global__ void between(const __grid_constant__ TestParams p) {
    const Places at = places(p);
    if constexpr (waits) wait_for_launch_before();
    *at.sums = *at.weights;
}

template <int mistake>
DEVICE void wait() {
    if constexpr (mistake == 1) return;                                              // 1: nobody waits
    if constexpr (mistake == 5) {                                                    // 5: one warp waits, the others do not hear of it
        if (threadIdx.x < 32) wait_for_launch_before();
    } else if constexpr (mistake == 6) {                                             // 6: they meet before it waits
        __syncthreads();
        if (threadIdx.x == 0) wait_for_launch_before();
    } else if constexpr (mistake == 7) {                                             // 7: one block waits
        if (blockIdx.x == 0) wait_for_launch_before();
    } else {
        wait_for_launch_before();
    }
}

template <int mistake>
__global__ void overlap(const __grid_constant__ TestParams p) {
    const Places at = places(p);
    const float weight = *at.weights;
    float doubled = 0.0f;
    if constexpr (mistake == 2) doubled = *at.doubled;                               // 2: reads before the wait what is not written yet
    if constexpr (mistake == 3) *at.x = weight;                                      // 3: writes before the wait what is not read yet
    if constexpr (mistake == 4) *at.doubled = weight;                                // 4: writes before the wait what is written after it
    if constexpr (mistake == 8) atomicAdd(at.doubled, weight);                       // 8: the same, by an atomic operation
    if constexpr (mistake == 9) {                                                    // 9: asks for a copy before the wait and takes it after
        SHARED_ARRAY(float4, held_smem, threads / 4);
        if (threadIdx.x < threads / 4) copy_async16(shared_address(held_smem + threadIdx.x), at.doubled + 3 * threadIdx.x, true);
        copy_async_commit();
        wait<0>();
        copy_async_wait<0>();
        __syncthreads();
        doubled = reinterpret_cast<const float*>(held_smem)[threadIdx.x];
    } else {
        wait<mistake>();
        if constexpr (mistake != 2) doubled = *at.doubled;
    }
    *at.x = *at.sums = doubled + weight;
}

/// Right: one thread waits, and the others meet it behind that.
__global__ void one_waits(const __grid_constant__ TestParams p) {
    const Places at = places(p);
    const float weight = *at.weights;
    if (threadIdx.x == 70) wait_for_launch_before();
    __syncthreads();
    *at.x = *at.sums = *at.doubled + weight;
}

template __global__ void overlap<0>(const __grid_constant__ TestParams);

}  // namespace

KERNEL_AS(test_overlap_first, first)
KERNEL_AS(test_overlap_between, between<true>)
KERNEL_AS(test_overlap_never_waits, between<false>)
KERNEL_AS(test_overlap_one_waits, one_waits)

#define VARIANT(n) KERNEL_AS(test_overlap_##n, overlap<n>)
VARIANTS_9(VARIANT)
