// x[r, :]   = x[r, :] + gate[:] * y[r, :]                                      (where y is given; rounded to bf16 and written back)
// out[r, :] = (x[r, :] - mean) * rsqrt(var + eps) * (1 + scale[:]) + shift[:]  of x as it was stored; fp32 inside
//
// Rows below p.split (text) take the first vectors, the others (image) the second: both streams in one launch.
//
// Mapping: one warp a row, 4 rows a block, no shared memory. The row stays in registers between the two passes of the statistics and the
// result (row.cuh): E eights of columns a lane, so one kernel for each of 512, 1024, 2048, 3072 and 4096 columns at most, and one for wider rows that
// reads them again from L1 and L2. Every access is 16 bytes wide; the vectors (6 kB each) come from L1.
// Bytes: x and out once each, with y x twice and y once: 2 or 4 times 2 * rows * columns. FLUX, [4608, 3072]: 56.6 MB, 18.9 us at 3.0 TB/s; with y
// 113 MB, 38 us. In flight: 3072 columns are 6 kB a warp, 12 kB with y, at 8 warps an SM: above the 15 kB that 3.0 TB/s needs.
// The bounds on blocks an SM keep ptxas from spilling a few bytes for a block more (sm_100a, sm_120a).
#include "norm_mod.h"

#include "../base/cuda.cuh"
#include "row.cuh"

namespace {

constexpr unsigned warps = 4;

/// Addresses of one row and its vectors.
struct Job {
    bf16* x;            // [columns]
    const bf16* y;      // [columns], or null
    bf16* out;          // [columns]
    const bf16* shift;  // [columns]
    const bf16* scale;  // [columns]
    const bf16* gate;   // [columns], or null
};

DEVICE Job job_of(const NormModParams& p, unsigned row) {
    const bool is_first = row < p.split;
    Job job;
    job.x = reinterpret_cast<bf16*>(p.x) + row * p.x_stride;
    job.y = p.y == 0 ? nullptr : reinterpret_cast<const bf16*>(p.y) + row * p.y_stride;
    job.out = reinterpret_cast<bf16*>(p.out) + row * p.out_stride;
    job.shift = reinterpret_cast<const bf16*>(is_first ? p.first_shift : p.second_shift);
    job.scale = reinterpret_cast<const bf16*>(is_first ? p.first_scale : p.second_scale);
    job.gate = reinterpret_cast<const bf16*>(is_first ? p.first_gate : p.second_gate);
    return job;
}

/// x + gate * y of eight columns, as bf16 holds them.
DEVICE void update(float (&x)[8], const float (&y)[8], const bf16* gate, unsigned count) {
    float g[8];
    load_eight(gate, count, g);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = rounded(x[i] + g[i] * y[i]);
}

/// Eight columns of the result.
DEVICE void modulate(const Job& job, unsigned column, unsigned count, const Statistics& s, float (&x)[8]) {
    float scale[8], shift[8];
    load_eight(job.scale + column, count, scale);
    load_eight(job.shift + column, count, shift);
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = (x[i] - s.mean) * s.inverse * (1.0f + scale[i]) + shift[i];
    store_eight(job.out + column, count, x);
}

/// A row of at most 256 * eights columns.
template <int eights>
DEVICE void norm_mod(const NormModParams& p) {
    const unsigned row = blockIdx.x * warps + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= p.rows) return;
    const Job job = job_of(p, row);
    Packed8 x[eights];
    load_row(job.x, p.columns, lane, x);
    if (job.y != nullptr) {
        Packed8 y[eights];
        load_row(job.y, p.columns, lane, y);
#pragma unroll
        for (int e = 0; e < eights; e++) {
            const unsigned column = column_of(e, lane), count = count_of(column, p.columns);
            if (count == 0) continue;
            float value[8], step[8];
            unpack8(x[e], value);
            unpack8(y[e], step);
            update(value, step, job.gate + column, count);
            store_eight(job.x + column, count, value);
            x[e] = pack8(value);
        }
    }
    const Statistics s = statistics(x, p.columns, p.eps, lane);
#pragma unroll
    for (int e = 0; e < eights; e++) {
        const unsigned column = column_of(e, lane), count = count_of(column, p.columns);
        if (count == 0) continue;
        float value[8];
        unpack8(x[e], value);
        modulate(job, column, count, s, value);
    }
}

/// A row of any length. A lane reads back only what it has written itself.
DEVICE void norm_mod_wide(const NormModParams& p) {
    const unsigned row = blockIdx.x * warps + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= p.rows) return;
    const Job job = job_of(p, row);
#pragma unroll 1
    for (unsigned column = lane * 8; job.y != nullptr && column < p.columns; column += 256) {
        const unsigned count = count_of(column, p.columns);
        float value[8], step[8];
        load_eight(job.x + column, count, value);
        load_eight(job.y + column, count, step);
        update(value, step, job.gate + column, count);
        store_eight(job.x + column, count, value);
    }
    const Statistics s = statistics(job.x, p.columns, p.eps, lane);
#pragma unroll 1
    for (unsigned column = lane * 8; column < p.columns; column += 256) {
        const unsigned count = count_of(column, p.columns);
        float value[8];
        load_eight(job.x + column, count, value);
        modulate(job, column, count, s, value);
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(warps * 32, 8) norm_mod_2_bf16(const __grid_constant__ NormModParams p) { norm_mod<2>(p); }
KERNEL(norm_mod_2_bf16)

extern "C" __global__ void __launch_bounds__(warps * 32, 5) norm_mod_4_bf16(const __grid_constant__ NormModParams p) { norm_mod<4>(p); }
KERNEL(norm_mod_4_bf16)

extern "C" __global__ void __launch_bounds__(warps * 32, 3) norm_mod_8_bf16(const __grid_constant__ NormModParams p) { norm_mod<8>(p); }
KERNEL(norm_mod_8_bf16)

extern "C" __global__ void __launch_bounds__(warps * 32, 2) norm_mod_12_bf16(const __grid_constant__ NormModParams p) { norm_mod<12>(p); }
KERNEL(norm_mod_12_bf16)

extern "C" __global__ void __launch_bounds__(warps * 32, 2) norm_mod_16_bf16(const __grid_constant__ NormModParams p) { norm_mod<16>(p); }
KERNEL(norm_mod_16_bf16)

extern "C" __global__ void __launch_bounds__(warps * 32, 8) norm_mod_wide_bf16(const __grid_constant__ NormModParams p) { norm_mod_wide(p); }
KERNEL(norm_mod_wide_bf16)
