// Trials
#include "norm_mod.h"

#include "../base/cuda.cuh"
#include "layer.cuh"

namespace {

#if defined(__CUDACC__)
DEVICE void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;\n\tgriddepcontrol.wait;" ::: "memory");
#endif
}
#else
DEVICE void wait_for_previous() {}
#endif

DEVICE Job job_of(const NormModParams& p, unsigned row) {
    const bool is_first = row < p.split;
    Job job;
    job.x = reinterpret_cast<bf16*>(p.x) + row * p.x_stride;
    job.y = reinterpret_cast<const bf16*>(p.y) + row * p.y_stride;
    job.gate = reinterpret_cast<const bf16*>(is_first ? p.first_gate : p.second_gate);
    job.factor = reinterpret_cast<const bf16*>(is_first ? p.first_scale : p.second_scale);
    job.shift = reinterpret_cast<const bf16*>(is_first ? p.first_shift : p.second_shift);
    job.out = reinterpret_cast<bf16*>(p.out) + row * p.out_stride;
    return job;
}

enum class Load { Plain, Once };
template <Load how>
DEVICE Packed8 load_by(const bf16* p) {
    return how == Load::Once ? __ldcs(reinterpret_cast<const Packed8*>(p)) : load8(p);
}

/// A block a row.
template <int threads, int eights, bool updates, Load how, bool early, bool early_launch>
DEVICE void trial(const NormModParams& p) {
    if (early_launch) wait_for_previous();
    if (blockIdx.x >= p.rows) return;
    const Job job = job_of(p, blockIdx.x);
    SUM_SLOTS(mean_slots, threads);
    SUM_SLOTS(variance_slots, threads);
    Packed8 held[eights], factors[eights], shifts[eights];
#pragma unroll
    for (int e = 0; e < eights; e++) held[e] = load_by<how>(job.x + column_of<threads>(e));
    if constexpr (updates) {
        Packed8 y[eights];
#pragma unroll
        for (int e = 0; e < eights; e++) y[e] = load_by<how>(job.y + column_of<threads>(e));
#pragma unroll
        for (int e = 0; e < eights; e++) {
            float step[8], gate[8], value[8];
            unpack8(load8_constant(job.gate + column_of<threads>(e)), gate);
            unpack8(held[e], value);
            unpack8(y[e], step);
            held[e] = updated(value, step, gate);
            store8(job.x + column_of<threads>(e), held[e]);
        }
    }
    if constexpr (early) {
#pragma unroll
        for (int e = 0; e < eights; e++) {
            factors[e] = load8_constant(job.factor + column_of<threads>(e));
            shifts[e] = load8_constant(job.shift + column_of<threads>(e));
        }
    }
    float x[eights][8];
    Sums sums;
#pragma unroll
    for (int e = 0; e < eights; e++) {
        unpack8(held[e], x[e]);
        sums.add(x[e]);
    }
    const float count = 8.0f * eights * threads;
    const float mean = block_sum<threads>(sums.total(), mean_slots) / count;
    Sums squares;
#pragma unroll
    for (int e = 0; e < eights; e++) {
#pragma unroll
        for (int i = 0; i < 8; i++) x[e][i] -= mean;
        squares.add_squares(x[e]);
    }
    const float inverse = rsqrtf(block_sum<threads>(squares.total(), variance_slots) / count + p.eps);
#pragma unroll
    for (int e = 0; e < eights; e++) {
        float factor[8], shift[8];
        unpack8(early ? factors[e] : load8_constant(job.factor + column_of<threads>(e)), factor);
        unpack8(early ? shifts[e] : load8_constant(job.shift + column_of<threads>(e)), shift);
        finish<Factor::OneMore>(x[e], inverse, factor, shift);
        store_whole(job.out + column_of<threads>(e), x[e]);
    }
}

/// Blocks that stay: the vectors in registers, the next row's loads under way while one is reduced.
template <int threads, int eights, bool updates, Load how, bool early_launch>
DEVICE void trial_resident(const NormModParams& p) {
    if (early_launch) wait_for_previous();
    SUM_SLOTS(mean_slots, threads);
    SUM_SLOTS(variance_slots, threads);
    Packed8 held[eights], steps[eights], factors[eights], shifts[eights];
    const auto load = [&](unsigned row) {
        const bf16* x = reinterpret_cast<const bf16*>(p.x) + row * p.x_stride;
        const bf16* y = reinterpret_cast<const bf16*>(p.y) + row * p.y_stride;
#pragma unroll
        for (int e = 0; e < eights; e++) held[e] = load_by<how>(x + column_of<threads>(e));
        if constexpr (updates) {
#pragma unroll
            for (int e = 0; e < eights; e++) steps[e] = load_by<how>(y + column_of<threads>(e));
        }
    };
    const auto vectors = [&](const Job& job) {
#pragma unroll
        for (int e = 0; e < eights; e++) {
            factors[e] = load8_constant(job.factor + column_of<threads>(e));
            shifts[e] = load8_constant(job.shift + column_of<threads>(e));
        }
    };
    unsigned row = blockIdx.x;
    if (row >= p.rows) return;
    load(row);
    vectors(job_of(p, row));
    bool is_first = row < p.split;
#pragma unroll 1
    for (;;) {
        const Job job = job_of(p, row);
        if (is_first != (row < p.split)) {
            is_first = row < p.split;
            vectors(job);
        }
        float x[eights][8];
        Sums sums;
#pragma unroll
        for (int e = 0; e < eights; e++) {
            unpack8(held[e], x[e]);
            if constexpr (updates) {
                float step[8], gate[8];
                unpack8(load8_constant(job.gate + column_of<threads>(e)), gate);
                unpack8(steps[e], step);
                const Packed8 sum = updated(x[e], step, gate);
                store8(job.x + column_of<threads>(e), sum);
                unpack8(sum, x[e]);
            }
        }
        const unsigned next = row + gridDim.x;
        const bool goes_on = next < p.rows;
        if (goes_on) load(next);
#pragma unroll
        for (int e = 0; e < eights; e++) sums.add(x[e]);
        const float count = 8.0f * eights * threads;
        const float mean = block_sum<threads>(sums.total(), mean_slots) / count;
        Sums squares;
#pragma unroll
        for (int e = 0; e < eights; e++) {
#pragma unroll
            for (int i = 0; i < 8; i++) x[e][i] -= mean;
            squares.add_squares(x[e]);
        }
        const float inverse = rsqrtf(block_sum<threads>(squares.total(), variance_slots) / count + p.eps);
#pragma unroll
        for (int e = 0; e < eights; e++) {
            float factor[8], shift[8];
            unpack8(factors[e], factor);
            unpack8(shifts[e], shift);
            finish<Factor::OneMore>(x[e], inverse, factor, shift);
            store_whole(job.out + column_of<threads>(e), x[e]);
        }
        if (!goes_on) return;
        row = next;
    }
}

}  // namespace

#define TRIAL(name, threads, blocks, ...)                                                                                              \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ NormModParams p) { __VA_ARGS__(p); } \
    KERNEL(name)

// threads, eights, updates, load, early, early launch
TRIAL(trial_a0, 128, 9, trial<128, 3, false, Load::Plain, false, false>)
TRIAL(trial_a1, 128, 8, trial<128, 3, true, Load::Plain, false, false>)
TRIAL(trial_b0, 128, 9, trial<128, 3, false, Load::Once, false, false>)
TRIAL(trial_b1, 128, 8, trial<128, 3, true, Load::Once, false, false>)
TRIAL(trial_c0, 128, 7, trial<128, 3, false, Load::Plain, true, false>)
TRIAL(trial_c1, 128, 6, trial<128, 3, true, Load::Plain, true, false>)
TRIAL(trial_d0, 192, 8, trial<192, 2, false, Load::Plain, false, false>)
TRIAL(trial_d1, 192, 6, trial<192, 2, true, Load::Plain, false, false>)
TRIAL(trial_e0, 384, 4, trial<384, 1, false, Load::Plain, true, false>)
TRIAL(trial_e1, 384, 4, trial<384, 1, true, Load::Plain, true, false>)
TRIAL(trial_f0, 128, 6, trial_resident<128, 3, false, Load::Plain, false>)
TRIAL(trial_f1, 128, 5, trial_resident<128, 3, true, Load::Plain, false>)
TRIAL(trial_g0, 192, 5, trial_resident<192, 2, false, Load::Plain, false>)
TRIAL(trial_g1, 192, 4, trial_resident<192, 2, true, Load::Plain, false>)
TRIAL(trial_h0, 384, 3, trial_resident<384, 1, false, Load::Plain, false>)
TRIAL(trial_h1, 384, 3, trial_resident<384, 1, true, Load::Plain, false>)
TRIAL(trial_i0, 128, 9, trial<128, 3, false, Load::Plain, false, true>)
TRIAL(trial_i1, 128, 8, trial<128, 3, true, Load::Plain, false, true>)
TRIAL(trial_j0, 192, 8, trial<192, 2, false, Load::Plain, false, true>)
TRIAL(trial_j1, 192, 6, trial<192, 2, true, Load::Plain, false, true>)
TRIAL(trial_k0, 128, 6, trial_resident<128, 3, false, Load::Plain, true>)
TRIAL(trial_k1, 128, 5, trial_resident<128, 3, true, Load::Plain, true>)
TRIAL(trial_l0, 64, 10, trial<64, 6, false, Load::Plain, false, false>)
TRIAL(trial_l1, 64, 8, trial<64, 6, true, Load::Plain, false, false>)
TRIAL(trial_m0, 192, 6, trial<192, 2, false, Load::Plain, true, false>)
TRIAL(trial_m1, 192, 6, trial<192, 2, true, Load::Plain, true, false>)
