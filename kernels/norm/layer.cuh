// LayerNorm of one row by one block, with whatever is done to the row before and with its result: what norm_mod.cu and layer_norm.cu share.
//
// Two passes over registers for the statistics, in fp32: one would lose the digits of the variance where the mean is large.
#pragma once
#include "../base/ptx.cuh"
#include "row.cuh"

namespace {

/// Addresses of one row and its vectors, `columns` of each.
struct Job {
    bf16* x;             // written where there is an update
    const bf16* y;       // what is added to x first, times gate; null without an update
    const bf16* gate;    // null without an update
    const bf16* factor;  // multiplies the normalised row: see `Factor`
    const bf16* shift;   // added to that
    bf16* out;
};

/// What multiplies a deviation from the mean: the vector itself, or one more than it.
enum class Factor { Whole, OneMore };

/// x + gate * y of eight columns, as bf16 holds them.
DEVICE Packed8 updated(const float (&x)[8], const float (&y)[8], const float (&gate)[8]) {
    float sum[8];
#pragma unroll
    for (int i = 0; i < 8; i++) sum[i] = fmaf(gate[i], y[i], x[i]);
    return pack8(sum);
}

/// Eight columns of the result: deviation * inverse * factor + shift.
template <Factor kind>
DEVICE void finish(float (&deviation)[8], float inverse, const float (&factor)[8], const float (&shift)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float scaled = kind == Factor::OneMore ? fmaf(factor[i], inverse, inverse) : factor[i] * inverse;
        deviation[i] = fmaf(deviation[i], scaled, shift[i]);
    }
}

/// A row of exactly 8 * eights * threads columns, all addresses multiples of 16. Where nothing is updated the vectors
/// are under way before the row is reduced; with an update their registers hold y and gate first.
template <int threads, int eights, bool updates, Factor kind>
DEVICE void layer_norm_row(const Job& job, float eps) {
    SUM_SLOTS(mean_slots, threads);
    SUM_SLOTS(variance_slots, threads);
    Packed8 held[eights], factors[eights], shifts[eights];
    load_row<threads>(job.x, held);
    if constexpr (!updates) {
        load_row<threads>(job.factor, factors);
        load_row<threads>(job.shift, shifts);
    }
    float x[eights][8];
    if constexpr (updates) {
        // All of it before the first store, which might write what is read behind it for all that the compiler knows.
        Packed8 y[eights], gates[eights];
        load_row<threads>(job.y, y);
        load_row<threads>(job.gate, gates);
#pragma unroll
        for (int e = 0; e < eights; e++) {
            float step[8], gate[8], value[8];
            unpack8(gates[e], gate);
            unpack8(held[e], value);
            unpack8(y[e], step);
            held[e] = updated(value, step, gate);
            store8(job.x + column_of<threads>(e), held[e]);
        }
    }
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
    const float inverse = rsqrtf(block_sum<threads>(squares.total(), variance_slots) / count + eps);
    if constexpr (updates) {
        load_row<threads>(job.factor, factors);
        load_row<threads>(job.shift, shifts);
    }
#pragma unroll
    for (int e = 0; e < eights; e++) {
        float factor[8], shift[8];
        unpack8(factors[e], factor);
        unpack8(shifts[e], shift);
        finish<kind>(x[e], inverse, factor, shift);
        store_whole(job.out + column_of<threads>(e), x[e]);
    }
}

/// The same by one warp, which holds the row as it lies in memory, in half the registers that floats would take, and unpacks it in each pass. Of a
/// vector the next eight is under way while one is used: it is asked for before the store between them, which might write it for all that the compiler knows.
template <int eights, bool updates, Factor kind>
DEVICE void layer_norm_warp_row(const Job& job, float eps) {
    Packed8 held[eights];
    load_row<32>(job.x, held);
    if constexpr (updates) {
        Packed8 y[eights], gates = load8(job.gate + column_of<32>(0));
        load_row<32>(job.y, y);
        // The assembler would move loads of x behind the stores.
        __syncwarp();
#pragma unroll
        for (int e = 0; e < eights; e++) {
            float step[8], gate[8], value[8];
            unpack8(gates, gate);
            unpack8(held[e], value);
            unpack8(y[e], step);
            if (e + 1 < eights) gates = load8(job.gate + column_of<32>(e + 1));
            held[e] = updated(value, step, gate);
            store8(job.x + column_of<32>(e), held[e]);
        }
    }
    float x[8];
    Sums sums;
#pragma unroll
    for (int e = 0; e < eights; e++) {
        unpack8(held[e], x);
        sums.add(x);
    }
    const float count = 8.0f * eights * 32;
    const float mean = warp_sum(sums.total()) / count;
    const auto deviations = [&](Packed8& packed) {
        forget(packed);
        unpack8(packed, x);
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] -= mean;
    };
    Sums squares;
#pragma unroll
    for (int e = 0; e < eights; e++) {
        deviations(held[e]);
        squares.add_squares(x);
    }
    Packed8 factors = load8(job.factor + column_of<32>(0)), shifts = load8(job.shift + column_of<32>(0));
    const float inverse = rsqrtf(warp_sum(squares.total()) / count + eps);
#pragma unroll
    for (int e = 0; e < eights; e++) {
        float factor[8], shift[8];
        deviations(held[e]);
        unpack8(factors, factor);
        unpack8(shifts, shift);
        if (e + 1 < eights) {
            factors = load8(job.factor + column_of<32>(e + 1));
            shifts = load8(job.shift + column_of<32>(e + 1));
        }
        finish<kind>(x, inverse, factor, shift);
        store_whole(job.out + column_of<32>(e), x);
    }
}

/// A row of any length at any address. A thread reads back only what it has written itself.
template <bool updates, Factor kind>
DEVICE void layer_norm_any_row(const Job& job, unsigned columns, float eps) {
    SUM_SLOTS(mean_slots, threads_max);
    SUM_SLOTS(variance_slots, threads_max);
    Sums sums;
#pragma unroll 1
    for (unsigned column = threadIdx.x * 8; column < columns; column += blockDim.x * 8) {
        const unsigned here = min(columns - column, 8u);
        float x[8];
        load_eight(job.x + column, here, x);
        if constexpr (updates) {
            float step[8], gate[8];
            load_eight(job.y + column, here, step);
            load_eight(job.gate + column, here, gate);
            unpack8(updated(x, step, gate), x);
            store_eight(job.x + column, here, x);
        }
        sums.add(x);
    }
    const float count = static_cast<float>(columns);
    const float mean = block_sum(sums.total(), mean_slots) / count;
    const auto deviations = [&](unsigned column, unsigned here, float(&x)[8]) {
        load_eight(job.x + column, here, x);
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = i < here ? x[i] - mean : 0.0f;
    };
    Sums squares;
#pragma unroll 1
    for (unsigned column = threadIdx.x * 8; column < columns; column += blockDim.x * 8) {
        float x[8];
        deviations(column, min(columns - column, 8u), x);
        squares.add_squares(x);
    }
    const float inverse = rsqrtf(block_sum(squares.total(), variance_slots) / count + eps);
#pragma unroll 1
    for (unsigned column = threadIdx.x * 8; column < columns; column += blockDim.x * 8) {
        const unsigned here = min(columns - column, 8u);
        float x[8], factor[8], shift[8];
        deviations(column, here, x);
        load_eight(job.factor + column, here, factor);
        load_eight(job.shift + column, here, shift);
        finish<kind>(x, inverse, factor, shift);
        store_eight(job.out + column, here, x);
    }
}

}  // namespace
