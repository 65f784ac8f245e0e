// out[i] = x[i] in out's element type, to nearest even; between equal types a copy
//
// Mapping: base/tile.cuh over one row, eight elements a thread: 16 bytes of bf16, twice 16 of fp32.
// Bytes: x once, out once. A weight of 3072 x 12288 from fp32 to bf16: 226 MB, 76 us at 3.0 TB/s.
#include "cast.h"

#include "../base/cuda.cuh"
#include "../base/tile.cuh"
#include "../base/vec.cuh"

namespace {

template <class From, class To>
DEVICE void cast(const CastParams& p) {
    for_eights(1, p.count, [&](unsigned, unsigned i, unsigned count) {
        float value[8];
        load_eight(reinterpret_cast<const From*>(p.x) + i, count, value);
        store_eight(reinterpret_cast<To*>(p.out) + i, count, value);
    });
}

}  // namespace

extern "C" __global__ void __launch_bounds__(tile_threads) cast_f32_f32(const __grid_constant__ CastParams p) { cast<float, float>(p); }
KERNEL(cast_f32_f32)

extern "C" __global__ void __launch_bounds__(tile_threads) cast_f32_bf16(const __grid_constant__ CastParams p) { cast<float, bf16>(p); }
KERNEL(cast_f32_bf16)

extern "C" __global__ void __launch_bounds__(tile_threads) cast_bf16_f32(const __grid_constant__ CastParams p) { cast<bf16, float>(p); }
KERNEL(cast_bf16_f32)

extern "C" __global__ void __launch_bounds__(tile_threads) cast_bf16_bf16(const __grid_constant__ CastParams p) { cast<bf16, bf16>(p); }
KERNEL(cast_bf16_bf16)
