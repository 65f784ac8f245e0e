// Blocks of a cluster among themselves, as base/ptx.cuh calls it; remote arrivals are in mbarrier.hpp, multicast in bulk.hpp.
#pragma once
#include "types.hpp"

namespace emu {

/// %cluster_ctarank: the running thread's block in its cluster.
u32 cluster_rank();
/// mapa: the address that `address` has in the block of that rank.
u32 peer_address(u32 address, u32 rank);
/// barrier.cluster.arrive.release: a warp arrives as a whole.
void cluster_arrive();
/// barrier.cluster.wait.acquire
void cluster_wait();

}  // namespace emu
