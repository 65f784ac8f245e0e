// TMA, as base/ptx.cuh calls it.
#pragma once
#include "tensor_map.hpp"
#include "types.hpp"

namespace emu {

/// cp.async.bulk.tensor to shared memory; the bytes are counted on the mbarrier. Coordinates from the innermost dimension.
void bulk_load(u32 destination, const TensorMap* map, u32 mbarrier, const int32_t* coordinates, u32 rank);
/// The same with .multicast::cluster: to the same places of every block of the cluster whose rank's bit is set in `blocks`.
void bulk_load_multicast(u32 destination, const TensorMap* map, u32 mbarrier, u32 blocks, const int32_t* coordinates, u32 rank);
/// cp.async.bulk.tensor from shared memory, in this thread's open group.
void bulk_store(u32 source, const TensorMap* map, const int32_t* coordinates, u32 rank);
void bulk_commit();
/// Waits until at most `groups` of this thread's groups still read shared memory.
void bulk_wait(u32 groups);

}  // namespace emu
