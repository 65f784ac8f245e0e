// The one include of a kernel: CUDA's headers under nvcc, the emulator's under a C++ compiler, and what both share.
#pragma once
#include <stdint.h>

#if defined(__CUDACC__)

#include <cuda_bf16.h>

using bf16 = __nv_bfloat16;

#define DEVICE __device__ __forceinline__

/// Dynamic shared memory of the block, 1024 bytes aligned as the 128-byte swizzle wants it.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

/// A static array in shared memory.
#define SHARED_ARRAY(type, name, count) __shared__ type name[count]

/// Makes a kernel known by its name; the image needs nothing for that.
#define KERNEL(name)
#define KERNEL_AS(name, ...)
/// The same for one with __cluster_dims__(blocks, 1, 1).
#define KERNEL_IN_CLUSTERS(name, blocks)
#define KERNEL_IN_CLUSTERS_AS(name, blocks, ...)

/// A tensor map as the driver encodes it: 128 opaque bytes.
struct alignas(64) TensorMap {
    uint64_t opaque[16];
};

#else

#include "../emu/barrier.hpp"
#include "../emu/bulk.hpp"
#include "../emu/cluster.hpp"
#include "../emu/copy_async.hpp"
#include "../emu/device.hpp"
#include "../emu/group.hpp"
#include "../emu/matrix.hpp"
#include "../emu/mbarrier.hpp"
#include "../emu/launches.hpp"

using emu::TensorMap;

#define DEVICE inline __attribute__((always_inline))

#define DYNAMIC_SHARED(name) unsigned char* const name = static_cast<unsigned char*>(emu::dynamic_shared())

#define SHARED_ARRAY(type, name, count)    \
    static const char name##_tag = 0;      \
    using name##_array = type[count];      \
    name##_array& name = *static_cast<name##_array*>(emu::static_shared(&name##_tag, sizeof(name##_array), alignof(type)))

#define KERNEL_IN_CLUSTERS_AS(name, blocks, ...) static const emu::Registration name##_registration = emu::registration<__VA_ARGS__>(#name, blocks);
#define KERNEL_IN_CLUSTERS(name, blocks) KERNEL_IN_CLUSTERS_AS(name, blocks, name)
#define KERNEL_AS(name, ...) KERNEL_IN_CLUSTERS_AS(name, 1, __VA_ARGS__)
#define KERNEL(name) KERNEL_AS(name, name)

// The library's own would go unseen.
#define memcpy(to, from, bytes) emu::copy_bytes(to, from, bytes)
#define memset(to, value, bytes) emu::fill_bytes(to, value, bytes)

#endif

/// The tensor maps of a kernel: its second parameter, by value. Fill on the host in the order that the kernel documents.
template <int count>
struct TensorMaps {
    TensorMap map[count];
};

#if !defined(__CUDACC__)
namespace emu {

template <auto kernel>
struct Caller;

/// Copies the parameters onto the thread's stack, uninstrumented: they are the launch's, not the kernel's memory.
template <class Params, void (*kernel)(Params)>
struct Caller<kernel> {
    static constexpr u32 params_bytes = sizeof(Params), maps_count = 0;
    __attribute__((no_sanitize("thread"))) static void call(const void* params, const emu::TensorMap*) {
        kernel(*static_cast<const Params*>(params));
    }
};

template <class Params, int count, void (*kernel)(Params, TensorMaps<count>)>
struct Caller<kernel> {
    static constexpr u32 params_bytes = sizeof(Params), maps_count = count;
    __attribute__((no_sanitize("thread"))) static void call(const void* params, const emu::TensorMap* maps) {
        kernel(*static_cast<const Params*>(params), *reinterpret_cast<const TensorMaps<count>*>(maps));
    }
};

template <auto kernel>
Registration registration(const char* name, u32 cluster_blocks) {
    return Registration(name, Caller<kernel>::call, Caller<kernel>::params_bytes, Caller<kernel>::maps_count, cluster_blocks);
}

}  // namespace emu
#endif
