// What a kernel sees when the C++ compiler builds it: CUDA's own names, each a call into the emulator.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>

#include "tensor_map.hpp"
#include "types.hpp"

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __restrict__ __restrict
#define __grid_constant__
#define __align__(n) alignas(n)

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

namespace emu {

// By value and out of line: the kernel's own loads are checked, these are not loads.
__attribute__((const)) dim3 thread_index();
__attribute__((const)) dim3 block_index();
__attribute__((const)) dim3 block_size();
__attribute__((const)) dim3 grid_size();

void block_barrier();
void warp_barrier(u32 lanes);
enum class Shuffle : u32 { Index, Xor, Up, Down };
u32 shuffle(u32 lanes, u32 value, Shuffle how, u32 operand, u32 width);
enum class Vote : u32 { Ballot, Any, All };
/// Bit i: lane i is in `lanes` and voted yes.
u32 vote(u32 lanes, Vote how, bool yes);
void* dynamic_shared();
void* static_shared(const void* tag, u32 bytes, u32 align);

enum class Atomic : u32 { Add, Max, Min, Exchange, Or, And };
template <class T>
T atomic(T* address, T value, Atomic how);
template <class T>
T atomic_compare_exchange(T* address, T expected, T desired);

template <class To, class From>
__forceinline__ To bits(From value) {
    static_assert(sizeof(To) == sizeof(From));
    return __builtin_bit_cast(To, value);
}

/// A kernel by its name: made by the macro `KERNEL` before `main`.
struct Registration {
    using Call = void (*)(const void* params, const TensorMap* maps);
    const char* name;
    Call call;
    u32 params_bytes, maps_count, cluster_blocks;
    const Registration* next;
    Registration(const char* name, Call call, u32 params_bytes, u32 maps_count, u32 cluster_blocks);
};

}  // namespace emu

#define threadIdx (emu::thread_index())
#define blockIdx (emu::block_index())
#define blockDim (emu::block_size())
#define gridDim (emu::grid_size())

__forceinline__ void __syncthreads() { emu::block_barrier(); }
__forceinline__ void __syncwarp(unsigned lanes = 0xffffffffu) { emu::warp_barrier(lanes); }

template <class T>
__forceinline__ T __shfl_sync(unsigned lanes, T value, int lane, int width = 32) {
    return emu::bits<T>(emu::shuffle(lanes, emu::bits<unsigned>(value), emu::Shuffle::Index, lane, width));
}
template <class T>
__forceinline__ T __shfl_xor_sync(unsigned lanes, T value, int mask, int width = 32) {
    return emu::bits<T>(emu::shuffle(lanes, emu::bits<unsigned>(value), emu::Shuffle::Xor, mask, width));
}
template <class T>
__forceinline__ T __shfl_up_sync(unsigned lanes, T value, unsigned delta, int width = 32) {
    return emu::bits<T>(emu::shuffle(lanes, emu::bits<unsigned>(value), emu::Shuffle::Up, delta, width));
}
template <class T>
__forceinline__ T __shfl_down_sync(unsigned lanes, T value, unsigned delta, int width = 32) {
    return emu::bits<T>(emu::shuffle(lanes, emu::bits<unsigned>(value), emu::Shuffle::Down, delta, width));
}
__forceinline__ unsigned __ballot_sync(unsigned lanes, int yes) { return emu::vote(lanes, emu::Vote::Ballot, yes != 0); }
__forceinline__ int __any_sync(unsigned lanes, int yes) { return emu::vote(lanes, emu::Vote::Any, yes != 0) != 0; }
__forceinline__ int __all_sync(unsigned lanes, int yes) { return emu::vote(lanes, emu::Vote::All, yes == 0) == 0; }

__forceinline__ int atomicAdd(int* p, int v) { return emu::atomic(p, v, emu::Atomic::Add); }
__forceinline__ unsigned atomicAdd(unsigned* p, unsigned v) { return emu::atomic(p, v, emu::Atomic::Add); }
__forceinline__ float atomicAdd(float* p, float v) { return emu::atomic(p, v, emu::Atomic::Add); }
__forceinline__ int atomicMax(int* p, int v) { return emu::atomic(p, v, emu::Atomic::Max); }
__forceinline__ unsigned atomicMax(unsigned* p, unsigned v) { return emu::atomic(p, v, emu::Atomic::Max); }
__forceinline__ int atomicMin(int* p, int v) { return emu::atomic(p, v, emu::Atomic::Min); }
__forceinline__ unsigned atomicMin(unsigned* p, unsigned v) { return emu::atomic(p, v, emu::Atomic::Min); }
__forceinline__ unsigned atomicOr(unsigned* p, unsigned v) { return emu::atomic(p, v, emu::Atomic::Or); }
__forceinline__ unsigned atomicAnd(unsigned* p, unsigned v) { return emu::atomic(p, v, emu::Atomic::And); }
__forceinline__ unsigned atomicExch(unsigned* p, unsigned v) { return emu::atomic(p, v, emu::Atomic::Exchange); }
__forceinline__ unsigned atomicCAS(unsigned* p, unsigned expected, unsigned desired) {
    return emu::atomic_compare_exchange(p, expected, desired);
}

__forceinline__ float __uint_as_float(unsigned v) { return emu::bits<float>(v); }
__forceinline__ unsigned __float_as_uint(float v) { return emu::bits<unsigned>(v); }
__forceinline__ int __popc(unsigned v) { return __builtin_popcount(v); }
__forceinline__ int __ffs(int v) { return __builtin_ffs(v); }
__forceinline__ int __clz(int v) { return v == 0 ? 32 : __builtin_clz(static_cast<unsigned>(v)); }
template <class T>
__forceinline__ T __ldg(const T* address) {
    return *address;
}
template <class T>
__forceinline__ T __ldcs(const T* address) {
    return *address;
}
__forceinline__ void __threadfence() {}
__forceinline__ uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
__forceinline__ uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
__forceinline__ float2 make_float2(float x, float y) { return {x, y}; }
__forceinline__ float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
__forceinline__ float __expf(float v) { return expf(v); }
__forceinline__ float __fdividef(float a, float b) { return a / b; }
__forceinline__ float cospif(float v) { return static_cast<float>(cos(3.14159265358979323846 * v)); }
__forceinline__ float sinpif(float v) { return static_cast<float>(sin(3.14159265358979323846 * v)); }
__forceinline__ float rsqrtf(float v) { return 1.0f / sqrtf(v); }
template <class T>
__forceinline__ T min(T a, T b) {
    return a < b ? a : b;
}
template <class T>
__forceinline__ T max(T a, T b) {
    return a < b ? b : a;
}

/// A bf16 number: the upper half of a float.
struct bf16 {
    uint16_t bits;
};
__forceinline__ float __bfloat162float(bf16 v) { return emu::bits<float>(uint32_t{v.bits} << 16); }
/// Rounds to nearest, ties to even; a NaN becomes 0x7fff, as on the device.
__forceinline__ bf16 __float2bfloat16_rn(float v) {
    const unsigned u = emu::bits<unsigned>(v);
    if ((u & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16)};
}

namespace emu {

// Byte by byte, so that the kernel's loads and stores are seen: the compiler shows the hooks no call of the library's.
__forceinline__ void* copy_bytes(void* to, const void* from, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) static_cast<volatile u8*>(to)[i] = static_cast<const u8*>(from)[i];
    return to;
}
__forceinline__ void* fill_bytes(void* to, int value, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) static_cast<volatile u8*>(to)[i] = static_cast<u8>(value);
    return to;
}

}  // namespace emu
