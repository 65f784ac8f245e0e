// out[b, t] = x[b ^ 1, t] + x[b, t ^ 32]: two blocks of a cluster hand each other their values through global memory, in the second half of x.
#include "../../base/cuda.cuh"
#include "../../base/ptx.cuh"
#include "params.cuh"

namespace {

constexpr unsigned blocks = 2;

template <int mistake>
__global__ void __cluster_dims__(blocks, 1, 1) neighbours(const __grid_constant__ TestParams p) {
    SHARED_ARRAY(float, own_smem, 128);
    const float* x = reinterpret_cast<const float*>(p.x);
    float* waiting = reinterpret_cast<float*>(p.x) + gridDim.x * 128;
    const unsigned index = blockIdx.x * 128 + threadIdx.x;
    own_smem[threadIdx.x] = x[index];
    waiting[index] = x[index];
    __syncthreads();
    if constexpr (mistake != 1) cluster_arrive();                                             // 1: waits for its own block only
    if constexpr (mistake != 1 && mistake != 2) cluster_wait();                               // 2: does not wait
    const float sum = waiting[index ^ 128] + own_smem[threadIdx.x ^ 32];
    reinterpret_cast<float*>(p.out)[mistake == 3 ? threadIdx.x : index] = sum;                // 3: both blocks to the same place
}

template __global__ void neighbours<0>(const __grid_constant__ TestParams);

}  // namespace

KERNEL_IN_CLUSTERS_AS(test_neighbours_0, blocks, neighbours<0>)
KERNEL_IN_CLUSTERS_AS(test_neighbours_1, blocks, neighbours<1>)
KERNEL_IN_CLUSTERS_AS(test_neighbours_2, blocks, neighbours<2>)
KERNEL_IN_CLUSTERS_AS(test_neighbours_3, blocks, neighbours<3>)
