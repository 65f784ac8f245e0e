// T5's bias by bucketed distance (Raffel et al. 2020, section 2.1), as crates/ops/src/attention/buckets.rs computes it.
#pragma once
#include "attention.h"

#include "../base/cuda.cuh"

constexpr float log2_e = 1.4426950408889634f;

/// Up to here attention_plain keeps the biases of all distances in shared memory (attention_plain.rs).
constexpr int attention_plain_reach_max = 1024;

/// The bucket of a distance `key - query`. Half of the buckets are for keys after the query; of each half the first half hold one distance
/// each, the others grow logarithmically up to `max_distance`. The logarithm is taken in double and rounded once: on the edge of a bucket the
/// host and every library have to agree.
DEVICE unsigned bucket_of(int distance, unsigned buckets, unsigned max_distance) {
    const unsigned half = buckets / 2, exact = half / 2, side = distance > 0 ? half : 0;
    const unsigned length = static_cast<unsigned>(distance < 0 ? -distance : distance);
    if (length < exact) return side + length;
    const float ratio = static_cast<float>(length) / static_cast<float>(exact);
    const float all = static_cast<float>(log(static_cast<double>(max_distance) / static_cast<double>(exact)));
    const float grown = static_cast<float>(log(static_cast<double>(ratio))) / all * static_cast<float>(half - exact);
    return side + min(exact + static_cast<unsigned>(grown), half - 1);
}

/// Distances from here on have one bias: they lie beyond the last bucket's edge, or do not occur.
DEVICE int bias_reach(const AttentionParams& p) { return static_cast<int>(min(p.max_distance, max(p.queries, p.keys))); }

/// The bias of a distance in units of log2(e), the unit in which the softmax works.
DEVICE float bias_of(const AttentionParams& p, unsigned head, int distance) {
    const bf16* table = reinterpret_cast<const bf16*>(p.bias_table);  // [buckets, heads]
    return __bfloat162float(table[bucket_of(distance, p.buckets, p.max_distance) * p.heads + head]) * log2_e;
}

/// One head's bias for the distances -reach to reach; the block's threads share the work.
DEVICE void fill_bias(float* bias_smem, const AttentionParams& p, unsigned head, int reach) {
    for (int i = threadIdx.x; i <= 2 * reach; i += blockDim.x) bias_smem[i] = bias_of(p, head, i - reach);
}
