// out[k, t] = what operation k gives thread t of 2 blocks of 64 (counted through): shuffles of every kind and width, votes, of whole warps and of halves, and every atomic
// on a word of shared memory, and a half's exchange through it; then totals[0..4] of all threads by atomics on global memory. x of 128 numbers, out of 14 x 128 and 4 words more.
#include "../../base/cuda.cuh"
#include "../../base/ptx.cuh"
#include "../../base/reduce.cuh"
#include "params.cuh"

namespace {

constexpr unsigned threads = 64, all_threads = 128, operations = 14;

/// Words of shared memory that the atomics of a block work on.
enum Word { Largest, Smallest, Union, Common, Counted, Exchanged, Returned, Words };

template <int mistake>
DEVICE unsigned votes(unsigned value, unsigned lane, unsigned (&result)[operations]) {
    if constexpr (mistake == 2) {
        if (lane == 31) return 1;                                     // 2: leaves before the vote that names it
    }
    if (mistake != 1 || lane < 16) result[5] = __ballot_sync(full_warp, value & 1);  // 1: half of each warp stays away
    if (mistake == 16 && lane < 16)
        result[6] = __ballot_sync(full_warp, value == 40);            // 16: another vote than the others
    else
        result[6] = __any_sync(full_warp, value == 40);
    result[7] = __all_sync(full_warp, value < 120);
    unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    if constexpr (mistake == 4) half = ~half;                         // 4: names the other half
    result[8] = __ballot_sync(half, value & (lane < 16 ? 2 : 4));
    return 0;
}

template <int mistake>
DEVICE void shuffles(unsigned value, unsigned lane, unsigned (&result)[operations]) {
    if (mistake == 3 && lane < 16)
        result[0] = __ballot_sync(full_warp, 1);                      // 3: votes where the others shuffle
    else
        result[0] = __shfl_sync(full_warp, value, static_cast<int>(lane * 5 + 3) % 32);
    result[1] = __shfl_sync(full_warp, value, static_cast<int>(lane + 3), 8);
    if (mistake == 14 && lane < 16)
        result[2] = __shfl_down_sync(full_warp, value, 3);            // 14: shuffles in another way than the others
    else
        result[2] = __shfl_up_sync(full_warp, value, 3 + 32);         // of which five bits count
    result[3] = __shfl_down_sync(full_warp, value, 5, mistake == 13 ? 24 : 16);  // 13: no power of two
    result[4] = __shfl_xor_sync(full_warp, value, 9, 8);
    if constexpr (mistake == 5) {
        if (lane < 16) result[0] = __shfl_sync(0x0000ffffu, value, 16);  // 5: reads from a lane that takes no part
    }
}

/// Of one block, in shared memory.
template <int mistake>
DEVICE void atomics(unsigned value, unsigned* word, unsigned thread, unsigned (&result)[operations]) {
    if (thread == 0) {
        word[Largest] = word[Union] = word[Exchanged] = word[Returned] = 0;
        word[Smallest] = word[Common] = 0xffffffffu;
        if constexpr (mistake != 7) word[Counted] = 0;                // 7: an atomic on what nobody wrote
    }
    __syncthreads();
    atomicMax(&word[Largest], value);
    atomicMin(&word[Smallest], value);
    atomicOr(&word[Union], value);
    atomicAnd(&word[Common], value | 0x100u);
    // Whatever the order: what was exchanged for something else, and what is left, is each number once.
    atomicAdd(&word[Returned], atomicExch(&word[Exchanged], value));
    unsigned before, expected = 0;
    while ((before = atomicCAS(&word[Counted], expected, expected + 1)) != expected) expected = before;
    if constexpr (mistake != 11) __syncthreads();                     // 11: reads beside the others' atomics
    result[9] = word[Largest] * 1000 + word[Smallest];
    result[10] = word[Union] * 1000 + word[Common];
    result[11] = word[Counted];
    result[12] = word[Returned] + word[Exchanged];
}

/// What the lane eight further on in its half wrote: the halves meet by themselves.
template <int mistake>
DEVICE unsigned halves(unsigned value, unsigned* own, unsigned thread) {
    const unsigned lane = thread % 32;
    own[thread] = value;
    __syncwarp(lane < 16 ? 0x0000ffffu : 0xffff0000u);
    const unsigned other = own[thread ^ (mistake == 15 ? 16 : 8)];    // 15: reads what the other half wrote
    if constexpr (mistake == 12) {                                    // 12: a barrier in each of two branches
        if (lane < 16) {
            own[threads + thread] = other;
            __syncthreads();
        } else {
            __syncthreads();
            own[threads + thread] = value;
        }
    }
    return other;
}

/// Of both blocks, in global memory.
template <int mistake>
DEVICE void total(unsigned value, unsigned* totals) {
    if constexpr (mistake == 6)
        totals[0] = totals[0] + value;                                // 6: everyone adds without an atomic
    else
        atomicAdd(&totals[0], value);
    atomicAdd(reinterpret_cast<int*>(&totals[1]), -static_cast<int>(value));
    atomicAdd(reinterpret_cast<float*>(&totals[2]), 0.5f * static_cast<float>(value));
    atomicMax(reinterpret_cast<int*>(&totals[3]), static_cast<int>(value) - 1000);
    if constexpr (mistake == 8)
        atomicAdd(reinterpret_cast<unsigned*>(reinterpret_cast<unsigned char*>(totals) + 2), 1u);  // 8: not aligned
    if constexpr (mistake == 9) atomicAdd(&totals[4], 1u);            // 9: behind the end
    if constexpr (mistake == 10) {
        if (value == 40) totals[4] = value;                           // 10: a store behind the end
    }
    if constexpr (mistake == 17) {
        if (value == 40) memcpy(totals + 3, &value, value - 35);      // 17: a copy of five bytes, one of them behind the end
    }
}

template <int mistake>
__global__ void lanes(const TestParams p) {
    SHARED_ARRAY(unsigned, word, Words);
    SHARED_ARRAY(unsigned, own, 2 * threads);
    const unsigned thread = threadIdx.x, lane = thread % 32, index = blockIdx.x * threads + thread;
    const unsigned value = reinterpret_cast<const unsigned*>(p.x)[index];
    unsigned* out = reinterpret_cast<unsigned*>(p.out);
    unsigned result[operations];
    shuffles<mistake>(value, lane, result);
    if (votes<mistake>(value, lane, result) != 0) return;
    atomics<mistake>(value, word, thread, result);
    result[13] = halves<mistake>(value, own, thread);
    for (unsigned k = 0; k < operations; k++) out[k * all_threads + index] = result[k];
    total<mistake>(value, out + operations * all_threads);
}

template __global__ void lanes<0>(const TestParams);

}  // namespace

#define VARIANT(n) KERNEL_AS(test_lanes_##n, lanes<n>)
VARIANTS_17(VARIANT)
