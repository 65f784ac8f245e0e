// out[r, i] = cos(a), out[r, half + i] = sin(a) with a = values[r] * exp(-ln(10000) * i / half), half = columns / 2
//
// Every operation in fp32 and in this order, with the exact functions (no approximations: values reach 3500, and an angle's error is
// that times the frequency's).
// Mapping: base/tile.cuh over [rows, half], eight pairs a thread.
// Bytes: out once. [50 steps, 256] bf16: 26 kB, so 2 us for the launch.
#include "sinusoid.h"

#include "../base/cuda.cuh"
#include "../base/tile.cuh"
#include "../base/vec.cuh"

extern "C" __global__ void __launch_bounds__(tile_threads) sinusoid_bf16(const __grid_constant__ SinusoidParams p) {
    const unsigned half = p.columns / 2;
    for_eights(p.rows, half, [&](unsigned row, unsigned column, unsigned count) {
        const float value = reinterpret_cast<const float*>(p.values)[row];
        float cosine[8], sine[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float exponent = -9.2103405f * static_cast<float>(column + i) / static_cast<float>(half);
            const float angle = value * expf(exponent);
            cosine[i] = cosf(angle);
            sine[i] = sinf(angle);
        }
        bf16* out = reinterpret_cast<bf16*>(p.out) + static_cast<uint64_t>(row) * p.columns + column;
        store_eight(out, count, cosine);
        store_eight(out + half, count, sine);
    });
}
KERNEL(sinusoid_bf16)
