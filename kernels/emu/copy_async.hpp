// cp.async, as base/ptx.cuh calls it.
#pragma once
#include "types.hpp"

namespace emu {

/// cp.async: 16 bytes to shared memory, of which the first `source_bytes` come from `source` and the others are zero.
void copy_async16(u32 destination, const void* source, u32 source_bytes);
void copy_async_commit();
/// Waits until at most `groups` of this thread's groups are under way.
void copy_async_wait(u32 groups);

u32 shared_address(const void* address);

}  // namespace emu
