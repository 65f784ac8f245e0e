// The only file with PTX: one instruction a function, its host twin beside it.
#pragma once
#include "cuda.cuh"

/// The float of the lower half of a pair.
DEVICE float low_bf16(unsigned pair) { return __uint_as_float(pair << 16); }

/// The float of the upper half of a pair.
DEVICE float high_bf16(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

/// cvt.rn.bf16x2.f32: two floats rounded to nearest even, `low` in the lower half.
DEVICE unsigned pack_bf16(float low, float high) {
#if defined(__CUDACC__)
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return __float2bfloat16_rn(low).bits | static_cast<unsigned>(__float2bfloat16_rn(high).bits) << 16;
#endif
}

/// ex2.approx.ftz: 2^x; the host's value is the correctly rounded one, the device's within 2 units in the last place.
DEVICE float exp2_approx(float x) {
#if defined(__CUDACC__)
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}
