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

/// The address of something in shared memory, as the instructions below take it.
DEVICE unsigned shared_address(const void* address) {
#if defined(__CUDACC__)
    return static_cast<unsigned>(__cvta_generic_to_shared(address));
#else
    return emu::shared_address(address);
#endif
}

/// cp.async.cg: 16 bytes into shared memory past L1; zeros where `is_inside` is false (the source is not read then).
DEVICE void copy_async16(unsigned destination, const void* source, bool is_inside) {
    const unsigned source_bytes = is_inside ? 16 : 0;
#if defined(__CUDACC__)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source), "r"(source_bytes) : "memory");
#else
    emu::copy_async16(destination, source, source_bytes);
#endif
}

/// cp.async.commit_group: closes this thread's group of copies.
DEVICE void copy_async_commit() {
#if defined(__CUDACC__)
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    emu::copy_async_commit();
#endif
}

/// cp.async.wait_group: all but the last `groups` groups of this thread have landed. Others see them after a barrier.
template <int groups>
DEVICE void copy_async_wait() {
#if defined(__CUDACC__)
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
#else
    emu::copy_async_wait(groups);
#endif
}

/// ldmatrix.x4: four 8 x 8 matrices; lane i gives the address of row i % 8 of matrix i / 8.
DEVICE void matrix_load4(unsigned (&r)[4], unsigned row_address) {
#if defined(__CUDACC__)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row_address)
                 : "memory");
#else
    emu::matrix_load(r, row_address, 4, false);
#endif
}

/// ldmatrix.x4.trans: the same, each matrix transposed.
DEVICE void matrix_load4_transposed(unsigned (&r)[4], unsigned row_address) {
#if defined(__CUDACC__)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row_address)
                 : "memory");
#else
    emu::matrix_load(r, row_address, 4, true);
#endif
}

/// stmatrix.x4 (sm_90 and later): four 8 x 8 matrices to shared memory.
DEVICE void matrix_store4(unsigned row_address, const unsigned (&r)[4]) {
#if defined(__CUDACC__)
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row_address), "r"(r[0]), "r"(r[1]), "r"(r[2]),
                 "r"(r[3])
                 : "memory");
#else
    emu::matrix_store(row_address, r, 4, false);
#endif
}

/// mma.sync m16n8k16: d[16, 8] += a[16, 16] b[16, 8]; bf16 in, fp32 sums.
DEVICE void product_16816(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if defined(__CUDACC__)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    const unsigned b[2] = {b0, b1};
    emu::product_16816(d, a, b);
#endif
}
