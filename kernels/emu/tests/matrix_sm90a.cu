// out[16 w + i, j] = sum_k x[16 w + i, k] x[16 w + j, k], i < 16, j < 8, one warp w of 4 for each 16 rows of x [64, 16], bf16: ldmatrix, mma.sync,
// stmatrix. out: [64, 8] bf16.
#include "../../base/cuda.cuh"
#include "../../base/ptx.cuh"
#include "params.cuh"

namespace {

constexpr unsigned row_bytes = 32;

template <int mistake>
__global__ void matrix(const TestParams p) {
    DYNAMIC_SHARED(memory);
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, tile = shared_address(memory);
    // Each thread brings 16 bytes: row threadIdx / 2. The copy is made by the mirror warp, so that a barrier is needed.
    const unsigned piece = 127 - threadIdx.x;
    reinterpret_cast<uint4*>(memory)[piece] = reinterpret_cast<const uint4*>(p.x)[piece];
    if constexpr (mistake != 3) __syncthreads();                     // 3: no barrier
    const unsigned first_row = mistake == 4 ? 56 + warp * 16 : warp * 16;  // 4: past the end
    const unsigned shift = mistake == 1 ? 8 : 0;                     // 1: not aligned
    unsigned a[4];
    matrix_load4(a, tile + (first_row + lane % 16) * row_bytes + lane / 16 * 16 + shift);
    float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    if (mistake != 2 || lane < 16) product_16816(d, a, a[0], a[2]);  // 2: half of the warp stays away
    __syncthreads();
    const unsigned pairs[4] = {pack_bf16(d[0], d[1]), pack_bf16(d[2], d[3]), 0, 0};
    // Matrices 0 and 1 are the rows of out, 2 and 3 go to a place of no interest.
    const unsigned row = lane < 16 ? warp * 16 + lane : 64 + warp * 16 + lane % 16;
    matrix_store4(tile + row * 16, pairs);
    __syncthreads();
    if (threadIdx.x < 64) reinterpret_cast<uint4*>(p.out)[threadIdx.x] = reinterpret_cast<const uint4*>(memory)[threadIdx.x];
}

template __global__ void matrix<0>(const TestParams);

}  // namespace

#define VARIANT(n) KERNEL_AS(test_matrix_##n, matrix<n>)
VARIANTS_4(VARIANT)
