// out[64, 64] = x[64, 64] y[64, 64]^T, fp32 out, once for every way in which wgmma takes its operands: four swizzles, each operand K-major or transposed in memory,
// x from shared memory or from registers. Both come by TMA in boxes as wide as the swizzle (16 bytes without one). One warpgroup, wgmma m64n64k16.
#include "../../base/cuda.cuh"
#include "../../base/ptx.cuh"
#include "params.cuh"

namespace {

constexpr unsigned size = 64, tile_bytes = size * size * 2;

template <unsigned swizzle_bytes>
DEVICE constexpr Swizzle swizzle_of() {
    return swizzle_bytes == 128 ? Swizzle::Bytes128 : swizzle_bytes == 64 ? Swizzle::Bytes64 : swizzle_bytes == 32 ? Swizzle::Bytes32 : Swizzle::None;
}

/// The descriptor of 16 k from k = 16 * step on. Boxes of `width` bytes and 64 lines lie one behind the other.
template <unsigned swizzle_bytes, bool is_transposed>
DEVICE uint64_t operand(unsigned tile_smem, unsigned step) {
    constexpr unsigned width = swizzle_bytes == 0 ? 16 : swizzle_bytes, box_bytes = size * width;
    constexpr Swizzle swizzle = swizzle_of<swizzle_bytes>();
    if constexpr (is_transposed) {
        const unsigned address = tile_smem + step * 16 * width;
        return swizzle_bytes == 0 ? group_operand(address, 8 * width, box_bytes, swizzle) : group_operand(address, box_bytes, 8 * width, swizzle);
    } else {
        const unsigned address = tile_smem + step * 32 / width * box_bytes + step * 32 % width;
        return swizzle_bytes == 0 ? group_operand(address, box_bytes, 8 * width, swizzle) : group_operand(address, 16, 8 * width, swizzle);
    }
}

template <unsigned swizzle_bytes>
DEVICE void load(unsigned tile_smem, const TensorMap* map, unsigned mbarrier) {
    constexpr unsigned width = swizzle_bytes == 0 ? 16 : swizzle_bytes;
    for (unsigned box = 0; box < size * 2 / width; box++)
        bulk_load(tile_smem + box * size * width, map, mbarrier, static_cast<int>(box * width / 2), 0);
}

/// The part of x that a lane holds as the a of step `step`; x is [64, 64] in global memory.
DEVICE void load_registers(unsigned (&a)[4], const bf16* x, unsigned step) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        const unsigned row = warp * 16 + lane / 4 + i % 2 * 8, column = step * 16 + lane % 4 * 2 + i / 2 * 8;
        a[i] = *reinterpret_cast<const unsigned*>(x + row * size + column);
    }
}

template <unsigned swizzle_bytes, bool x_transposed, bool y_transposed, bool x_in_registers>
__global__ void __launch_bounds__(128) layouts(const __grid_constant__ TestParams p, const __grid_constant__ TensorMaps<2> maps) {
    DYNAMIC_SHARED(memory);
    const unsigned x_smem = shared_address(memory), y_smem = x_smem + tile_bytes, loaded = y_smem + tile_bytes;
    if (threadIdx.x == 0) {
        mbarrier_init(loaded, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(loaded, 2 * tile_bytes);
        load<swizzle_bytes>(x_smem, &maps.map[0], loaded);
        load<swizzle_bytes>(y_smem, &maps.map[1], loaded);
    }
    __syncthreads();
    unsigned a[4][4];
    if constexpr (x_in_registers)
        for (unsigned step = 0; step < 4; step++) load_registers(a[step], reinterpret_cast<const bf16*>(p.x), step);
    mbarrier_wait(loaded, 0);
    float sum[32];
    group_fence();
#pragma unroll
    for (unsigned step = 0; step < 4; step++) {
        const uint64_t y = operand<swizzle_bytes, y_transposed>(y_smem, step);
        if constexpr (x_in_registers)
            group_product<y_transposed>(sum, a[step], y, step > 0);
        else
            group_product<x_transposed, y_transposed>(sum, operand<swizzle_bytes, x_transposed>(x_smem, step), y, step > 0);
    }
    group_commit();
    group_wait<0>();
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (unsigned i = 0; i < 32; i++) {
        const unsigned row = warp * 16 + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        reinterpret_cast<float*>(p.out)[row * size + column] = sum[i];
    }
}

template __global__ void layouts<128, false, true, true>(const __grid_constant__ TestParams, const __grid_constant__ TensorMaps<2>);

}  // namespace

#define VARIANTS(bytes)                                                       \
    KERNEL_AS(test_layouts_##bytes##_kk, layouts<bytes, false, false, false>) \
    KERNEL_AS(test_layouts_##bytes##_kt, layouts<bytes, false, true, false>)  \
    KERNEL_AS(test_layouts_##bytes##_tk, layouts<bytes, true, false, false>)  \
    KERNEL_AS(test_layouts_##bytes##_tt, layouts<bytes, true, true, false>)   \
    KERNEL_AS(test_layouts_##bytes##_rk, layouts<bytes, false, false, true>)  \
    KERNEL_AS(test_layouts_##bytes##_rt, layouts<bytes, false, true, true>)
VARIANTS(0)
VARIANTS(32)
VARIANTS(64)
VARIANTS(128)
