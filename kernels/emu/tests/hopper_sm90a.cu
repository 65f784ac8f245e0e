// out[64, 128] = x[64, depth] y[128, depth]^T, bf16: a producer warpgroup brings 64 columns of both at a time by TMA into two stages, a consumer
// warpgroup multiplies them by wgmma, the result leaves by TMA. Maps: x, y (128-byte swizzle, boxes of 64 columns), out (64 columns a box).
#include "../../base/cuda.cuh"
#include "../../base/ptx.cuh"
#include "params.cuh"

namespace {

constexpr unsigned stages = 2, x_bytes = 64 * 128, y_bytes = 128 * 128, stage_bytes = x_bytes + y_bytes;
constexpr unsigned out_bytes = 2 * 64 * 128;

/// Addresses in shared memory.
struct Places {
    unsigned stage, out, full, empty;
};

template <int mistake>
DEVICE Places places(unsigned base) {
    const unsigned out = base + stages * stage_bytes, mbarriers = out + (mistake == 22 ? 0 : out_bytes);  // 22: where the result will lie
    return {base, out, mbarriers, mbarriers + 8 * stages};
}

template <int mistake>
DEVICE void produce(const Places& s, const TensorMaps<3>& maps, unsigned tiles) {
    for (unsigned tile = 0; tile < tiles; tile++) {
        const unsigned stage = tile % stages, parity = tile / stages % 2;
        const unsigned beside = mistake == 15 ? 16 : mistake == 19 ? 65536 : 0;               // 15: not aligned; 19: behind the end
        const unsigned target = s.stage + stage * stage_bytes + beside;
        const unsigned full = s.full + 8 * stage;
        if constexpr (mistake != 1)                                                           // 1: overwrites a stage in use
            mbarrier_wait(s.empty + 8 * stage, mistake == 8 ? parity : parity ^ 1);           // 8: waits for the wrong phase
        mbarrier_arrive_expect(full, mistake == 7 ? stage_bytes + 16 : stage_bytes);          // 7: bytes that never come
        bulk_load(target, &maps.map[0], full, tile * 64, 0);
        bulk_load(target + x_bytes, &maps.map[1], full, tile * 64, 0);
    }
}

DEVICE void multiply(float (&sum)[64], unsigned x, unsigned y, bool accumulates) {
#pragma unroll
    for (int k = 0; k < 4; k++) {
        group_product(sum, group_operand(x + k * 32, 16, 1024, Swizzle::Bytes128), group_operand(y + k * 32, 16, 1024, Swizzle::Bytes128),
                      accumulates || k > 0);
    }
}

template <int mistake>
DEVICE void consume(const Places& s, float (&sum)[64], unsigned tiles) {
    const unsigned thread = threadIdx.x % 128;
    for (unsigned tile = 0; tile < tiles; tile++) {
        const unsigned stage = tile % stages, parity = mistake == 24 ? tile / stages : tile / stages % 2;  // 24: a parity of 2
        const bool waits = mistake == 14 ? thread == 0 : mistake != 2;                        // 14: one thread only; 2: nobody
        if (waits) mbarrier_wait(s.full + 8 * stage, parity);
        if constexpr (mistake != 11) group_fence();                                           // 11: no wgmma.fence
        const unsigned x = s.stage + stage * stage_bytes, y = x + x_bytes + (mistake == 20 ? 65536 : 0);  // 20: operands behind the end
        multiply(sum, x, y, tile > 0);
        group_commit();
        if (mistake == 3 && thread == 0) mbarrier_arrive(s.empty + 8 * stage);                // 3: releases before the wait
        if (mistake != 4 || tile + 1 < tiles) group_wait<0>();                                // 4: the last is not waited for
        if (mistake != 3 && (thread == 0 || mistake == 12)) mbarrier_arrive(s.empty + 8 * stage);  // 12: 128 arrivals for 1
    }
}

/// Two boxes of [64][64], swizzled as the map of out says.
DEVICE unsigned out_smem(unsigned out, unsigned row, unsigned column) {
    const unsigned piece = column % 64 / 8;
    return out + column / 64 * (64 * 128) + row * 128 + ((piece ^ (row & 7)) << 4) + column % 8 * 2;
}

template <int mistake>
DEVICE void store(const Places& s, unsigned char* memory, const TensorMaps<3>& maps, float (&sum)[64], uint64_t out) {
    const unsigned thread = threadIdx.x % 128, lane = thread % 32, base = shared_address(memory);
#pragma unroll
    for (int i = 0; i < 64; i += 2) {
        const unsigned row = thread / 32 * 16 + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2;
        *reinterpret_cast<unsigned*>(memory + (out_smem(s.out, row, column) - base)) = pack_bf16(sum[i], sum[i + 1]);
    }
    if constexpr (mistake != 5 && mistake != 21) fence_proxy_async();                                          // 5: no proxy fence
    if constexpr (mistake != 6) named_barrier_sync(1, 128);                                   // 6: not all have written
    if constexpr (mistake == 21) fence_proxy_async();                                         // 21: the fence behind the barrier
    if (thread == 0) {
        bulk_store(s.out, &maps.map[2], 0, 0);
        bulk_store(s.out + 64 * 128, &maps.map[2], mistake == 18 ? 68 : 64, 0);               // 18: the row's end within 16 bytes
        bulk_commit();
        if constexpr (mistake != 13 && mistake != 16) bulk_wait_read<0>();                    // 13: leaves before it is read
        if constexpr (mistake == 16) {
            *reinterpret_cast<unsigned*>(memory + (s.out - base)) = 0;                        // 16: overwrites what is being read
            bulk_wait_read<0>();
        }
        if constexpr (mistake == 26)                                                          // 26: it has been read, not written
            *reinterpret_cast<volatile float*>(memory) = *reinterpret_cast<const float*>(out);
    }
}

template <int mistake>
__global__ void __launch_bounds__(256, 1) hopper(const __grid_constant__ TestParams p, const __grid_constant__ TensorMaps<3> maps) {
    DYNAMIC_SHARED(memory);
    const Places s = places<mistake>(shared_address(memory));
    if (threadIdx.x == 0) {
        for (unsigned stage = 0; stage < stages; stage++) {
            mbarrier_init(s.full + 8 * stage, 1);
            mbarrier_init(s.empty + 8 * stage, 1);
        }
        if constexpr (mistake == 23) mbarrier_init(s.full, 1);                                // 23: twice
        if constexpr (mistake != 9) fence_mbarrier_init();                                    // 9: bulk copies do not know the mbarriers
    }
    if constexpr (mistake != 10) __syncthreads();                                             // 10: used before they are initialised
    if (threadIdx.x < 128) {
        if (mistake != 25 || threadIdx.x < 32) release_registers<24>();                       // 25: one warp of the warpgroup
        if (threadIdx.x == 0) produce<mistake>(s, maps, p.count);
    } else {
        take_registers<mistake == 17 ? 250 : 240>();                                          // 17: no multiple of 8
        if constexpr (mistake == 27) take_registers<232>();                                   // 27: takes fewer than it has
        float sum[64];
        consume<mistake>(s, sum, p.count);
        store<mistake>(s, memory, maps, sum, p.out);
    }
}

template __global__ void hopper<0>(const __grid_constant__ TestParams, const __grid_constant__ TensorMaps<3>);

}  // namespace

#define VARIANT(n) KERNEL_AS(test_hopper_##n, hopper<n>)
VARIANTS_27(VARIANT)
