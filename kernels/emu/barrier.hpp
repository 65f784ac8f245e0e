// Named barriers, as base/ptx.cuh calls them.
#pragma once
#include "types.hpp"

namespace emu {

/// bar.sync: arrives and waits.
void named_barrier_sync(u32 id, u32 threads);
/// bar.arrive: arrives and goes on.
void named_barrier_arrive(u32 id, u32 threads);

}  // namespace emu
