// out[r, c] = gelu_tanh(x[r, c]) * x[r, columns + c], in fp32, rounded once
//
// Mapping: base/tile.cuh over out, eight columns a thread: two loads and one store of 16 bytes.
// Bytes: x (both halves) once, out once. T5-XXL, [512, 2 * 10240] bf16: 31 MB, 10 us at 3.0 TB/s.
#include "geglu.h"

#include "../base/activation.cuh"
#include "../base/cuda.cuh"
#include "../base/tile.cuh"
#include "../base/vec.cuh"

extern "C" __global__ void __launch_bounds__(tile_threads) geglu_bf16(const __grid_constant__ GegluParams p) {
    for_eights(p.rows, p.columns, [&](unsigned row, unsigned column, unsigned count) {
        const bf16* x = reinterpret_cast<const bf16*>(p.x) + row * p.x_stride + column;
        float gated[8], linear[8];
        load_eight(x, count, gated);
        load_eight(x + p.columns, count, linear);
#pragma unroll
        for (int i = 0; i < 8; i++) gated[i] = activate(gated[i], 1) * linear[i];
        store_eight(reinterpret_cast<bf16*>(p.out) + row * p.out_stride + column, count, gated);
    });
}
KERNEL(geglu_bf16)
