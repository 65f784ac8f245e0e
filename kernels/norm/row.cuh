// A row of bf16 in the registers of one warp, and its two-pass mean and variance in fp32.
//
// Lane l holds the eights l, l + 32, l + 64, .. of the row, packed: a row of 3072 is 12 eights or 48 registers a lane. What does not exist is 0 and
// counted nowhere. Loads and stores are 16 bytes wide where the row's address is a multiple of 16, else one element each: the choice is made
// once a row and changes no bit of the result.
#pragma once
#include "../base/cuda.cuh"
#include "../base/reduce.cuh"
#include "../base/vec.cuh"

namespace {

/// First column of a lane's eight.
DEVICE unsigned column_of(unsigned eight, unsigned lane) { return (eight * 32 + lane) * 8; }

/// How many of an eight's columns exist, 0 to 8.
DEVICE unsigned count_of(unsigned column, unsigned columns) { return column < columns ? min(columns - column, 8u) : 0; }

DEVICE Packed8 load_part(const bf16* address, unsigned count) {
    float value[8];
#pragma unroll
    for (int i = 0; i < 8; i++) value[i] = i < count ? __bfloat162float(address[i]) : 0.0f;
    return pack8(value);
}

/// The row, `eights` a lane.
template <int eights>
DEVICE void load_row(const bf16* row, unsigned columns, unsigned lane, Packed8 (&held)[eights]) {
    const bool is_aligned = is_aligned16(row);
    // All whole vectors first: that many loads are under way at once.
#pragma unroll
    for (int e = 0; e < eights; e++) {
        const unsigned column = column_of(e, lane);
        held[e] = is_aligned && column + 8 <= columns ? load8(row + column) : Packed8{0, 0, 0, 0};
    }
    if (is_aligned && columns % 8 == 0) return;
#pragma unroll
    for (int e = 0; e < eights; e++) {
        const unsigned column = column_of(e, lane), count = count_of(column, columns);
        if (count != 0 && !(is_aligned && count == 8)) held[e] = load_part(row + column, count);
    }
}

/// The sum of `term` over the row, in every lane.
template <int eights, class Term>
DEVICE float sum_row(const Packed8 (&held)[eights], unsigned columns, unsigned lane, Term term) {
    float sum = 0.0f;
#pragma unroll
    for (int e = 0; e < eights; e++) {
        const unsigned count = count_of(column_of(e, lane), columns);
        float x[8];
        unpack8(held[e], x);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += i < count ? term(x[i]) : 0.0f;
    }
    return warp_sum(sum);
}

struct Statistics {
    float mean;
    float inverse;  // rsqrt(variance + eps)
};

/// Two passes over registers: one would lose the digits of the variance where the mean is large.
template <int eights>
DEVICE Statistics statistics(const Packed8 (&held)[eights], unsigned columns, float eps, unsigned lane) {
    const float count = static_cast<float>(columns);
    const float mean = sum_row(held, columns, lane, [](float x) { return x; }) / count;
    const float variance = sum_row(held, columns, lane, [mean](float x) { return (x - mean) * (x - mean); }) / count;
    return {mean, rsqrtf(variance + eps)};
}

/// The same for a row of any length, which stays in memory and is read twice.
DEVICE Statistics statistics(const bf16* row, unsigned columns, float eps, unsigned lane) {
    const float count = static_cast<float>(columns);
    const auto sum = [&](auto term) {
        float total = 0.0f;
        for (unsigned column = lane * 8; column < columns; column += 256) {
            const unsigned here = count_of(column, columns);
            float x[8];
            load_eight(row + column, here, x);
#pragma unroll
            for (int i = 0; i < 8; i++) total += i < here ? term(x[i]) : 0.0f;
        }
        return warp_sum(total);
    };
    const float mean = sum([](float x) { return x; }) / count;
    const float variance = sum([mean](float x) { return (x - mean) * (x - mean); }) / count;
    return {mean, rsqrtf(variance + eps)};
}

}  // namespace
