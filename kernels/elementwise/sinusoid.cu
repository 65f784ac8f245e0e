// out[r, i] = cos(a), out[r, half + i] = sin(a) with a = values[r] * exp(-ln(10000) * i / half), half = columns / 2
//
// The angle in fp32, every operation in this order and with the exact exponential: values reach 3500, and an error of the frequency is multiplied
// by that. Then whole turns are taken off in fp64, where that is exact to 2^-40, so that no slow way of sinf and cosf (large arguments, a table in
// local memory) is compiled in.
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
            const double turns = angle * 0.15915494309189535;
            const float half_turns = static_cast<float>(2.0 * (turns - rint(turns)));
            cosine[i] = cospif(half_turns);
            sine[i] = sinpif(half_turns);
        }
        bf16* out = reinterpret_cast<bf16*>(p.out) + static_cast<uint64_t>(row) * p.columns + column;
        store_eight(out, count, cosine);
        store_eight(out + half, count, sine);
    });
}
KERNEL(sinusoid_bf16)
