// mbarriers and proxy fences, as base/ptx.cuh calls them. An mbarrier is named by its address in shared memory.
#pragma once
#include "types.hpp"

namespace emu {

void mbarrier_init(u32 address, u32 count);
/// fence.mbarrier_init: makes initialised mbarriers known to the asynchronous proxy.
void mbarrier_fence_init();
void mbarrier_arrive(u32 address);
/// mbarrier.arrive.release.cta on the mbarrier of any block of the cluster, at an address that `peer_address` gave. Other blocks learn from it which products and bulk
/// copies are over, and nothing of plain accesses.
void mbarrier_arrive_peer(u32 address);
/// Arrives and says that so many bytes of bulk copies belong to this phase.
void mbarrier_arrive_expect(u32 address, u32 bytes);
/// Waits until the phase of this parity has ended.
void mbarrier_wait(u32 address, u32 parity);
/// fence.proxy.async: what this thread has written is visible to bulk stores and wgmma.
void fence_proxy_async();

}  // namespace emu
