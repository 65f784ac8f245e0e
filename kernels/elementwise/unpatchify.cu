// image[c, y, x] = tokens[(y / 2) * (width / 2) + x / 2, c * 4 + (y % 2) * 2 + x % 2] * multiply + add, in fp32, rounded once
//
// Mapping: base/tile.cuh over tokens, eight columns (two channels of a 2x2 patch) a thread: one load of 16 bytes, eight stores of 2 by the
// image's strides. With channels last a warp's stores fall into whole sectors.
// Bytes: tokens once, image once. Latents of 1024 x 1024, [16, 128, 128] bf16: 1 MB, so 2 us for the launch.
#include "unpatchify.h"

#include "../base/cuda.cuh"
#include "../base/tile.cuh"
#include "../base/vec.cuh"
#include "patch.cuh"

extern "C" __global__ void __launch_bounds__(tile_threads) unpatchify_bf16(const __grid_constant__ UnpatchifyParams p) {
    bf16* image = reinterpret_cast<bf16*>(p.image);
    const unsigned columns = 4 * p.channels;
    for_eights(p.height / 2 * (p.width / 2), columns, [&](unsigned token, unsigned column, unsigned count) {
        bf16* patch = image + patch_offset(p, token);
        float value[8];
        load_eight(reinterpret_cast<const bf16*>(p.tokens) + static_cast<uint64_t>(token) * columns + column, count, value);
#pragma unroll
        for (unsigned i = 0; i < 8; i++)
            if (i < count) patch[pixel_offset(p, column + i)] = __float2bfloat16_rn(value[i] * p.multiply + p.add);
    });
}
KERNEL(unpatchify_bf16)
