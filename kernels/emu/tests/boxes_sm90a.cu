// out[i] = x[z, y, x], float: one box [4, 4, 32] of a tensor of three dimensions, by TMA; what is in the map is the caller's. Another mbarrier is given the most that one takes.
#include "../../base/cuda.cuh"
#include "../../base/ptx.cuh"
#include "params.cuh"

namespace {

constexpr unsigned threads = 128, box_bytes = 4 * 4 * 32 * 4, most = (1 << 20) - 1;

template <int mistake>
__global__ void __launch_bounds__(threads) boxes(const __grid_constant__ TestParams p, const __grid_constant__ TensorMaps<1> maps) {
    DYNAMIC_SHARED(memory);
    const unsigned base = shared_address(memory), loaded = base + box_bytes, unused = loaded + 8;
    if (threadIdx.x == 0) {
        mbarrier_init(loaded, mistake == 3 ? 3 : 1);
        mbarrier_init(unused, mistake == 1 ? most + 1 : most);              // 1: too many arrivals
        fence_mbarrier_init();
        mbarrier_arrive_expect(unused, mistake == 2 ? most + 1 : most);     // 2: more bytes than it counts
        if constexpr (mistake == 3) {                                       // 3: the same in two parts
            mbarrier_arrive_expect(loaded, most / 2 + 1);
            mbarrier_arrive_expect(loaded, most / 2 + 1);
        }
        if constexpr (mistake == 4)                                         // 4: as many that nobody has announced
            for (unsigned i = 0; i <= most / box_bytes; i++) bulk_load(base, &maps.map[0], loaded, 0, 0, 0);
        if constexpr (mistake != 4) {
            mbarrier_arrive_expect(loaded, box_bytes);
            bulk_load(base, &maps.map[0], loaded, 0, 0, 0);
        }
    }
    __syncthreads();
    mbarrier_wait(loaded, 0);
    for (unsigned i = threadIdx.x; i < box_bytes / 4; i += threads)
        reinterpret_cast<float*>(p.out)[i] = reinterpret_cast<const float*>(memory)[i];
}

template __global__ void boxes<0>(const __grid_constant__ TestParams, const __grid_constant__ TensorMaps<1>);

}  // namespace

#define VARIANT(n) KERNEL_AS(test_boxes_##n, boxes<n>)
VARIANTS_4(VARIANT)
