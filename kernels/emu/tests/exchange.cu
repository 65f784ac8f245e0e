// out[i] = x[127 - i] + x[127 - i ^ 1] for each row of 128 floats: through shared memory, a shuffle and an atomic, one row a block.
//
// Variant 0 is right; each other one has the mistake that its `if constexpr` names.
#include "../../base/cuda.cuh"
#include "../../base/ptx.cuh"
#include "../../base/reduce.cuh"
#include "params.cuh"

namespace {

constexpr unsigned threads = 128;

template <int mistake>
DEVICE float load(const float* x, unsigned i) {
    if constexpr (mistake == 5) return x[i + 1];                     // 5: the last thread reads past the end
    if constexpr (mistake == 7) {                                     // 7: eight bytes at a multiple of four
        const float2 pair = *reinterpret_cast<const float2*>(x + 1);
        return pair.x + pair.y;
    }
    return x[i];
}

template <int mistake>
__global__ void exchange(const TestParams p) {
    SHARED_ARRAY(float, tile, threads);
    SHARED_ARRAY(unsigned, arrived, 1);
    const unsigned i = threadIdx.x, lane = i % 32, row = blockIdx.x;
    const float* x = reinterpret_cast<const float*>(p.x);
    float* out = reinterpret_cast<float*>(p.out);

    if (i == 0) arrived[0] = 0;
    const float mine = load<mistake>(x, row * threads + i);
    if constexpr (mistake == 3) tile[i / 2] = mine;                  // two threads write one element
    if constexpr (mistake == 6) {
        if (i != 40) tile[i] = mine;                                 // one element is never written
    } else {
        tile[i] = mine;
    }
    if constexpr (mistake == 8) {
        if (lane < 16) __syncthreads();                              // half of each warp takes another way
    } else if constexpr (mistake != 1) {                             // 1: no barrier between write and read
        __syncthreads();
    }
    const unsigned from = mistake == 4 ? threads - i : threads - 1 - i;  // 4: thread 0 reads one past the end
    float value = tile[from];
    if constexpr (mistake == 9) {
        if (lane == 31) return;                                      // leaves before the shuffle that names it
    }
    value += __shfl_xor_sync(full_warp, value, 1);
    if constexpr (mistake == 2) tile[i] = value;                     // no barrier between read and write
    if constexpr (mistake == 10) {
        SHARED_ARRAY(float, own, threads);
        own[i] = value;                                              // no __syncwarp between lanes
        value = own[i ^ 1];
    }
    if constexpr (mistake == 12) {
        arrived[0] = arrived[0] + 1;                                 // everyone adds without an atomic
    } else {
        atomicAdd(&arrived[0], 1u);
    }
    if constexpr (mistake == 14) {
        volatile unsigned* flag = arrived;
        __syncthreads();
        while (i == 0 && *flag != threads + 1) {                     // what it waits for never comes
        }
    }
    __syncthreads();
    if constexpr (mistake == 13) {
        if (i < 96) named_barrier_sync(1, threads);                  // 96 threads come, 128 are waited for
    }
    if constexpr (mistake == 15) {
        if (i == 0) named_barrier_sync(1, 48);                       // no multiple of 32
    }
    if constexpr (mistake == 16) named_barrier_sync(1, 0);           // no number
    const unsigned target = mistake == 11 ? i : row * threads + i;   // 11: every block writes the same row
    out[target] = arrived[0] == threads ? value : -1.0f;
}

template __global__ void exchange<0>(const TestParams);

}  // namespace

#define VARIANT(n) KERNEL_AS(test_exchange_##n, exchange<n>)
VARIANTS_16(VARIANT)
