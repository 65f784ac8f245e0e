// tokens[(y / 2) * (width / 2) + x / 2, c * 4 + (y % 2) * 2 + x % 2] = image[c, y, x] * multiply + add, in fp32, rounded once
//
// Mapping: base/tile.cuh over tokens, eight columns (two channels of a 2x2 patch) a thread: eight loads of 2 bytes by the image's strides, one
// store of 16. With channels last a warp's loads fall into whole sectors.
// Bytes: image once, tokens once. Latents of 1024 x 1024, [16, 128, 128] bf16: 1 MB, so 2 us for the launch.
#include "patchify.h"

#include "../base/cuda.cuh"
#include "../base/tile.cuh"
#include "../base/vec.cuh"
#include "patch.cuh"

extern "C" __global__ void __launch_bounds__(tile_threads) patchify_bf16(const __grid_constant__ PatchifyParams p) {
    const bf16* image = reinterpret_cast<const bf16*>(p.image);
    const unsigned columns = 4 * p.channels;
    for_eights(p.height / 2 * (p.width / 2), columns, [&](unsigned token, unsigned column, unsigned count) {
        const bf16* patch = image + patch_offset(p, token);
        float value[8];
#pragma unroll
        for (unsigned i = 0; i < 8; i++) value[i] = i < count ? __bfloat162float(patch[pixel_offset(p, column + i)]) * p.multiply + p.add : 0.0f;
        store_eight(reinterpret_cast<bf16*>(p.tokens) + static_cast<uint64_t>(token) * columns + column, count, value);
    });
}
KERNEL(patchify_bf16)
