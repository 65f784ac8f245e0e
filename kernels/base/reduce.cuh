// Reductions within a warp, in one fixed order: the same bits in every lane and on every run.
#pragma once
#include "cuda.cuh"

constexpr unsigned full_warp = 0xffffffffu;

/// The sum over the `lanes` (a power of two) neighbouring lanes, in all of them: a butterfly.
template <int lanes = 32>
DEVICE float warp_sum(float value) {
#pragma unroll
    for (int distance = lanes / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(full_warp, value, distance);
    return value;
}

/// The maximum over the `lanes` (a power of two) neighbouring lanes, in all of them.
template <int lanes = 32>
DEVICE float warp_max(float value) {
#pragma unroll
    for (int distance = lanes / 2; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(full_warp, value, distance));
    return value;
}
