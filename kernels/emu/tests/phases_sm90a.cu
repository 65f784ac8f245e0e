// out[i] = sum over rounds of x[64 r + 63 - i] + x[64 r + (i ^ 1)], float: two warps, all of whose threads meet at one mbarrier before they read a round, and at another behind it.
#include "../../base/cuda.cuh"
#include "../../base/ptx.cuh"
#include "params.cuh"

namespace {

constexpr unsigned threads = 64;

/// Addresses of the mbarriers.
struct Phases {
    unsigned written, read;
};

template <int mistake>
DEVICE void meet(unsigned mbarrier, unsigned round) {
    const bool arrives = mistake != 4 || threadIdx.x % 32 == 0;                     // 4: one lane arrives for its warp, which has not met
    if (arrives) mbarrier_arrive(mbarrier);
    mbarrier_wait(mbarrier, mistake == 1 ? round : (round + (mistake == 3)) % 2);   // 1: a parity of 2; 3: the phase before
}

template <int mistake>
__global__ void __launch_bounds__(threads) phases(const __grid_constant__ TestParams p) {
    SHARED_ARRAY(float, tile, threads);
    SHARED_ARRAY(uint64_t, mbarriers, 2);
    const unsigned i = threadIdx.x, first = shared_address(mistake == 6 ? reinterpret_cast<const void*>(tile) : mbarriers);  // 6: in the data
    const Phases at = {first, first + 8};
    const float* x = reinterpret_cast<const float*>(p.x);
    float sum = 0.0f;
    if (i == 0) {
        mbarrier_init(at.written, mistake == 4 ? 2 : threads);
        mbarrier_init(at.read, mistake == 4 ? 2 : threads);
    }
    __syncthreads();
    for (unsigned round = 0; round < p.count; round++) {
        tile[i] = x[round * threads + i];
        meet<mistake>(at.written, round);
        sum += tile[threads - 1 - i] + tile[i ^ 1];
        if constexpr (mistake != 2) meet<mistake>(at.read, round);                  // 2: overwrites what others read
        if (mistake == 5 && i == 0) mbarrier_init(at.read, threads);                // 5: initialised again
    }
    reinterpret_cast<float*>(p.out)[i] = sum;
}

template __global__ void phases<0>(const __grid_constant__ TestParams);

}  // namespace

#define VARIANT(n) KERNEL_AS(test_phases_##n, phases<n>)
VARIANTS_6(VARIANT)
