// test_overlap_bulk_N, which overlaps test_overlap_first: out[n + i] = out[i] + out[2 n + i], n = 128 blocks. One thread waits for the launch before and has the block's four
// rows of 32 brought by TMA; the others learn of both by the mbarrier, and store their sums in place of x. Maps: out[0 .. n) and out[n .. 2 n), four rows a box.
#include "../../base/cuda.cuh"
#include "../../base/ptx.cuh"
#include "params.cuh"

namespace {

constexpr unsigned threads = 128, box_bytes = threads * 4;

template <int mistake>
__global__ void overlap_bulk(const __grid_constant__ TestParams p, const __grid_constant__ TensorMaps<2> maps) {
    DYNAMIC_SHARED(memory);
    float* const held_smem = reinterpret_cast<float*>(memory);
    float* const sums_smem = held_smem + threads;
    const unsigned base = shared_address(memory), mbarrier = base + 2 * box_bytes;
    const unsigned n = gridDim.x * threads, i = blockIdx.x * threads + threadIdx.x;
    const int row = static_cast<int>(blockIdx.x) * 4;
    const float weight = reinterpret_cast<const float*>(p.out)[2 * n + i];
    sums_smem[threadIdx.x] = weight;
    fence_proxy_async();
    if (threadIdx.x == 0) {
        mbarrier_init(mbarrier, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if constexpr (mistake == 1) {                                                    // 1: asks for a store before the wait, and waits for both then
        if (threadIdx.x == 32) {
            bulk_store(base + box_bytes, &maps.map[0], 0, row);
            bulk_commit();
            wait_for_launch_before();
            bulk_wait_read<0>();
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        if constexpr (mistake != 2 && mistake != 3) wait_for_launch_before();        // 2: nobody waits
        mbarrier_arrive_expect(mbarrier, box_bytes);
        bulk_load(base, &maps.map[0], mbarrier, 0, row);
        if constexpr (mistake == 3) wait_for_launch_before();                        // 3: asks for the rows before the wait
    }
    if constexpr (mistake == 4) reinterpret_cast<float*>(p.x)[i] = weight;           // 4: the others do not know yet that thread 0 has waited
    mbarrier_wait(mbarrier, 0);
    reinterpret_cast<float*>(p.x)[i] = sums_smem[threadIdx.x] = held_smem[threadIdx.x] + weight;
    fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        bulk_store(base + box_bytes, &maps.map[1], 0, row);
        bulk_commit();
        bulk_wait_read<0>();
    }
}

template __global__ void overlap_bulk<0>(const __grid_constant__ TestParams, const __grid_constant__ TensorMaps<2>);

}  // namespace

#define VARIANT(n) KERNEL_AS(test_overlap_bulk_##n, overlap_bulk<n>)
VARIANTS_4(VARIANT)
