// Sixteen bytes at a time: eight bf16 numbers in one access, as floats in registers.
#pragma once
#include "cuda.cuh"
#include "ptx.cuh"

/// Eight bf16 numbers as they lie in memory; 16 bytes aligned.
using Packed8 = uint4;

DEVICE Packed8 load8(const bf16* address) { return *reinterpret_cast<const Packed8*>(address); }

DEVICE void store8(bf16* address, Packed8 value) { *reinterpret_cast<Packed8*>(address) = value; }

DEVICE void unpack8(Packed8 packed, float (&value)[8]) {
    const unsigned words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        value[2 * i] = low_bf16(words[i]);
        value[2 * i + 1] = high_bf16(words[i]);
    }
}

/// Rounds to nearest, ties to even.
DEVICE Packed8 pack8(const float (&value)[8]) {
    return Packed8{pack_bf16(value[0], value[1]), pack_bf16(value[2], value[3]), pack_bf16(value[4], value[5]),
                   pack_bf16(value[6], value[7])};
}
