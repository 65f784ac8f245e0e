// x[i] = x[i] + delta * velocity[i], in fp32, rounded once
//
// Mapping: base/tile.cuh over one row, eight elements a thread: two loads and one store of 16 bytes.
// Bytes: x twice, velocity once. Latents of 1024 x 1024, [4096, 64] bf16: 1.6 MB, so 2 us for the launch.
#include "euler_step.h"

#include "../base/cuda.cuh"
#include "../base/tile.cuh"
#include "../base/vec.cuh"

extern "C" __global__ void __launch_bounds__(tile_threads) euler_step_bf16(const __grid_constant__ EulerStepParams p) {
    for_eights(1, p.count, [&](unsigned, unsigned i, unsigned count) {
        bf16* x = reinterpret_cast<bf16*>(p.x) + i;
        float position[8], velocity[8];
        load_eight(x, count, position);
        load_eight(reinterpret_cast<const bf16*>(p.velocity) + i, count, velocity);
#pragma unroll
        for (int j = 0; j < 8; j++) position[j] += p.delta * velocity[j];
        store_eight(x, count, position);
    });
}
KERNEL(euler_step_bf16)
