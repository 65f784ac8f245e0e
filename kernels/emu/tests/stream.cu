// out[i] = sum over tiles of x[tile, i], x of [count, 128 * 4] floats: tiles arrive by cp.async in two buffers, each thread adds the pieces that
// its mirror image copied.
#include "../../base/cuda.cuh"
#include "../../base/ptx.cuh"
#include "params.cuh"

namespace {

constexpr unsigned threads = 128, tile_bytes = threads * 16;

template <int mistake>
DEVICE void copy_tile(unsigned tile_smem, const float* x, unsigned tile, unsigned count) {
    const bool is_inside = mistake == 5 || tile < count;             // 5: reads behind the last tile
    const unsigned shift = mistake == 6 ? 8 : 0;                     // 6: not aligned
    copy_async16(tile_smem + threadIdx.x * 16 + shift, x + tile * threads * 4 + threadIdx.x * 4, is_inside);
}

template <int mistake>
__global__ void stream(const TestParams p) {
    DYNAMIC_SHARED(memory);
    const float* x = reinterpret_cast<const float*>(p.x);
    const unsigned base = shared_address(memory), mirror = threads - 1 - threadIdx.x;
    float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
    copy_tile<mistake>(base, x, 0, p.count);
    copy_async_commit();
    for (unsigned tile = 0; tile < p.count; tile++) {
        const unsigned now = tile % 2, next = mistake == 4 ? now : 1 - now;  // 4: refills the buffer in use
        copy_tile<mistake>(base + next * tile_bytes, x, tile + 1, p.count);
        copy_async_commit();
        copy_async_wait<mistake == 1 ? 2 : 1>();                     // 1: one group too few
        if constexpr (mistake != 2) __syncthreads();                 // 2: others' copies are not ordered
        const float4 piece = reinterpret_cast<const float4*>(memory + now * tile_bytes)[mirror];
        sum.x += piece.x;
        sum.y += piece.y;
        sum.z += piece.z;
        sum.w += piece.w;
        if constexpr (mistake != 3) __syncthreads();                 // 3: the next copy overtakes a slow reader
    }
    copy_async_wait<0>();
    reinterpret_cast<float4*>(p.out)[mirror] = sum;
}

template __global__ void stream<0>(const TestParams);

}  // namespace

#define VARIANT(n) KERNEL_AS(test_stream_##n, stream<n>)
VARIANTS_6(VARIANT)
