// out[128, 128] = x[128, depth] y[128, depth]^T, bf16, by a cluster of two blocks: each has 64 rows of x, and brings half of y to both by multicast. A producer
// warpgroup brings 64 columns at a time into two stages, a consumer warpgroup multiplies; a stage is free when the consumers of both blocks gave it back.
// Maps: x, y (128-byte swizzle, boxes of 64 columns and 64 rows).
#include "../../base/cuda.cuh"
#include "../../base/ptx.cuh"
#include "params.cuh"

namespace {

constexpr unsigned stages = 2, half_bytes = 64 * 128, stage_bytes = 3 * half_bytes, blocks = 2;
constexpr unsigned full_at = stages * stage_bytes, empty_at = full_at + 8 * stages;
constexpr int by_barrier = 100;  // as 0, but the blocks meet once more before they leave

template <int mistake>
DEVICE void sync_cluster() {
    if constexpr (mistake != 13) cluster_arrive();                                            // 13: waits without having arrived
    if constexpr (mistake == 14) cluster_arrive();                                            // 14: arrives twice
    cluster_wait();
}

template <int mistake>
DEVICE void produce(unsigned smem, unsigned rank, const TensorMaps<2>& maps, unsigned tiles) {
    const unsigned tail = mistake == 2 || mistake == by_barrier ? 0 : stages;                 // 2: leaves before its peer gave the last stages back
    for (unsigned tile = 0; tile < tiles + tail; tile++) {
        const unsigned stage = tile % stages, parity = tile / stages % 2 ^ 1;
        const unsigned target = smem + stage * stage_bytes, full = smem + full_at + 8 * stage, empty = smem + empty_at + 8 * stage;
        mbarrier_wait(empty, parity);
        if (tile >= tiles) continue;
        mbarrier_arrive_expect(full, mistake == 9 ? stage_bytes - half_bytes : stage_bytes);  // 9: does not count what its peer brings
        bulk_load(target, &maps.map[0], full, tile * 64, rank * 64);
        const unsigned half = mistake == 8 ? 0 : rank;                                        // 8: both bring the same half
        const unsigned to = mistake == 4 ? 1u << rank : mistake == 5 ? 7 : 3;                 // 4: to itself only; 5: to a third block
        bulk_load_multicast(target + (1 + half) * half_bytes, &maps.map[1], full, static_cast<unsigned short>(to), tile * 64, half * 64);
    }
}

template <int mistake>
DEVICE void give_back(unsigned empty) {
    for (unsigned rank = 0; rank < blocks; rank++) {
        const unsigned peer = peer_address(empty, mistake == 12 ? rank + 1 : rank);           // 12: of a third block
        if constexpr (mistake == 11)                                                          // 11: by an instruction for the own block
            mbarrier_arrive(peer);
        else if constexpr (mistake == 10)                                                     // 10: always its own
            mbarrier_arrive_peer(empty);
        else if (mistake != 3 || rank == cluster_rank())                                      // 3: its own, which counts one consumer
            mbarrier_arrive_peer(peer);
    }
}

template <int mistake>
DEVICE void consume(const unsigned char* memory, float (&sum)[64], unsigned tiles) {
    const unsigned smem = shared_address(memory);
    for (unsigned tile = 0; tile < tiles; tile++) {
        const unsigned stage = tile % stages, x = smem + stage * stage_bytes, y = x + half_bytes, empty = smem + empty_at + 8 * stage;
        mbarrier_wait(smem + full_at + 8 * stage, tile / stages % 2);
        group_fence();
#pragma unroll
        for (int k = 0; k < 4; k++) {
            group_product(sum, group_operand(x + k * 32, 16, 1024, Swizzle::Bytes128), group_operand(y + k * 32, 16, 1024, Swizzle::Bytes128),
                          tile > 0 || k > 0);
        }
        group_commit();
        if (mistake == 6 && threadIdx.x % 128 == 0) give_back<mistake>(empty);                // 6: before the products are done
        group_wait<0>();
        if (mistake == 7 && threadIdx.x % 128 == 0)                                           // 7: a plain read, of which its peer learns nothing
            sum[0] += *reinterpret_cast<const float*>(memory + (y - smem));
        if (mistake != 6 && threadIdx.x % 128 == 0) give_back<mistake>(empty);
    }
}

DEVICE void store(bf16* out, const float (&sum)[64], unsigned first_row) {
    const unsigned thread = threadIdx.x % 128, lane = thread % 32;
#pragma unroll
    for (int i = 0; i < 64; i += 2) {
        const unsigned row = first_row + thread / 32 * 16 + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2;
        *reinterpret_cast<unsigned*>(out + row * 128 + column) = pack_bf16(sum[i], sum[i + 1]);
    }
}

template <int mistake>
__global__ void __cluster_dims__(blocks, 1, 1) __launch_bounds__(256, 1)
    cluster(const __grid_constant__ TestParams p, const __grid_constant__ TensorMaps<2> maps) {
    DYNAMIC_SHARED(memory);
    const unsigned smem = shared_address(memory), rank = cluster_rank();
    if (threadIdx.x == 0) {
        for (unsigned stage = 0; stage < stages; stage++) {
            mbarrier_init(smem + full_at + 8 * stage, 1);
            mbarrier_init(smem + empty_at + 8 * stage, mistake == 3 ? 1 : blocks);
        }
        if constexpr (mistake != 16) fence_mbarrier_init();                                   // 16: bulk copies do not know the mbarriers
    }
    if constexpr (mistake == 1)                                                               // 1: its peer may not have initialised its own
        __syncthreads();
    else if (mistake != 15 || threadIdx.x >= 32)                                              // 15: a warp does not come
        sync_cluster<mistake>();
    if (mistake == 18 && rank == 1) return;                                                   // 18: leaves, and its peer goes on
    if (threadIdx.x < 128) {
        if (threadIdx.x == 0) produce<mistake>(smem, rank, maps, p.count);
        __syncwarp();
    } else {
        float sum[64];
        consume<mistake>(memory, sum, p.count);
        store(reinterpret_cast<bf16*>(p.out), sum, mistake == 17 ? 0 : rank * 64);            // 17: its peer's rows too
    }
    if constexpr (mistake == by_barrier) sync_cluster<mistake>();
}

template __global__ void cluster<0>(const __grid_constant__ TestParams, const __grid_constant__ TensorMaps<2>);

}  // namespace

KERNEL_IN_CLUSTERS_AS(test_cluster_barrier, blocks, cluster<by_barrier>)
#define VARIANT(n) KERNEL_IN_CLUSTERS_AS(test_cluster_##n, blocks, cluster<n>)
VARIANTS_18(VARIANT)
