// Eight neighbouring numbers at a time, as floats in registers: bf16 in one access of 16 bytes, fp32 in two.
#pragma once
#include "cuda.cuh"
#include "ptx.cuh"

/// Eight bf16 numbers as they lie in memory; 16 bytes aligned.
using Packed8 = uint4;

DEVICE Packed8 load8(const bf16* address) { return *reinterpret_cast<const Packed8*>(address); }

/// Of what is not read again soon: it is the first to leave the caches.
DEVICE Packed8 load8_once(const bf16* address) { return __ldcs(reinterpret_cast<const Packed8*>(address)); }

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

/// Each rounded to bf16. By pairs: of a single one the conversion goes where exponentials go, at a sixteenth of what a multiprocessor adds in a clock (F2F for F2FP).
DEVICE void round8(float (&value)[8]) { unpack8(pack8(value), value); }

/// Whether an address is a multiple of 16.
DEVICE bool is_aligned16(const void* address) { return reinterpret_cast<uint64_t>(address) % 16 == 0; }

DEVICE float to_float(bf16 value) { return __bfloat162float(value); }
DEVICE float to_float(float value) { return value; }

template <class T>
DEVICE T from_float(float value);
/// Rounds to nearest, ties to even.
template <>
DEVICE bf16 from_float<bf16>(float value) { return __float2bfloat16_rn(value); }
template <>
DEVICE float from_float<float>(float value) { return value; }

/// The value as bf16 holds it.
DEVICE float rounded(float value) { return __bfloat162float(__float2bfloat16_rn(value)); }

/// Eight numbers; `address` is a multiple of 16.
DEVICE void load_whole(const bf16* address, float (&value)[8]) { unpack8(load8(address), value); }
DEVICE void load_whole(const float* address, float (&value)[8]) {
    const float4 low = reinterpret_cast<const float4*>(address)[0], high = reinterpret_cast<const float4*>(address)[1];
    const float all[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 8; i++) value[i] = all[i];
}

DEVICE void store_whole(bf16* address, const float (&value)[8]) { store8(address, pack8(value)); }
DEVICE void store_whole(float* address, const float (&value)[8]) {
    reinterpret_cast<float4*>(address)[0] = make_float4(value[0], value[1], value[2], value[3]);
    reinterpret_cast<float4*>(address)[1] = make_float4(value[4], value[5], value[6], value[7]);
}

/// Eight numbers of which `count` exist; the others become 0. In whole vectors where the address allows.
template <class T>
DEVICE void load_eight(const T* address, unsigned count, float (&value)[8]) {
    if (count >= 8 && is_aligned16(address)) {
        load_whole(address, value);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) value[i] = i < count ? to_float(address[i]) : 0.0f;
}

/// Stores the first `count` of eight numbers. In whole vectors where the address allows.
template <class T>
DEVICE void store_eight(T* address, unsigned count, const float (&value)[8]) {
    if (count >= 8 && is_aligned16(address)) {
        store_whole(address, value);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < count) address[i] = from_float<T>(value[i]);
}
