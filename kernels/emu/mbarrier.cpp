// mbarriers: arrivals and expected bytes end a phase; who waits for it learns what those who arrived knew.
#include "mbarrier.hpp"

#include "block.hpp"

namespace emu {

namespace {

/// Those who arrived are published.
void add(std::vector<u32>& published, std::vector<u32>& arriving) {
    published.resize(std::max(published.size(), arriving.size()), 0);
    for (size_t a = 0; a < arriving.size(); a++) published[a] = std::max(published[a], arriving[a]);
    arriving.clear();
}

}  // namespace

u32 find_mbarrier(u32 address, u32 thread, Place place) {
    Block& b = *block;
    for (u32 slot = 0; slot < b.mbarriers.size(); slot++) {
        const Mbarrier& barrier = b.mbarriers[slot];
        if (barrier.address != address) continue;
        if (b.checks() && !b.clocks.actor(thread).is_ordered_after(barrier.initialised)) {
            fail({Kind::Race, thread, place, barrier.initialiser, barrier.place},
                 "mbarrier at shared+%u is used, and nothing orders that after its initialisation", SharedMemory::inside(address));
        }
        return slot;
    }
    fail({Kind::Barrier, thread, place}, "mbarrier at shared+%u of block rank %u was never initialised", SharedMemory::inside(address),
         SharedMemory::rank(address));
}

void end_phase_if_complete(u32 slot) {
    Block& b = *block;
    Mbarrier& barrier = b.mbarriers[slot];
    if (barrier.pending != 0 || barrier.bytes_expected != 0) return;
    barrier.phase++;
    barrier.pending = barrier.count;
    add(barrier.published, barrier.arriving);
    add(barrier.published_remote, barrier.arriving_remote);
    for (u32 t = 0; t < b.threads_count; t++) {
        const Thread& thread = b.threads[t];
        if (thread.wait == Wait::Mbarrier && thread.waits_for == barrier.address && thread.parity != (barrier.phase & 1)) wake(t);
    }
}

namespace {

/// mbarrier.init, arrive and wait name their own block's.
void check_own(u32 address, Manner manner, Place place) { block->shared.check_bounds(address, 8, block->running, manner, place); }

void arrive(u32 address, u32 bytes, bool is_remote, Place place) {
    Block& b = *block;
    const u32 rank = SharedMemory::rank(address);
    check_own(address, Manner{.is_write = true, .is_remote = is_remote}, place);
    check_present(rank, place);
    const u32 slot = find_mbarrier(address, b.running, place);
    Mbarrier& barrier = b.mbarriers[slot];
    if (barrier.pending == 0) {
        fail({Kind::Barrier, b.running, place}, "mbarrier at shared+%u expects %u arrivals a phase, this is one more", SharedMemory::inside(address),
             barrier.count);
    }
    if (b.checks()) {
        const bool is_other = rank != b.self().rank;
        if (is_other) remember_remote(rank, {b.clocks.actor(b.running).stamp, b.running, place});
        b.clocks.publish(b.running, is_other ? barrier.arriving_remote : barrier.arriving);
        b.clocks.advance(b.warp_of(b.running));
    }
    barrier.bytes_expected += bytes;
    barrier.pending--;
    end_phase_if_complete(slot);
}

}  // namespace

void mbarrier_init(u32 address, u32 count) {
    Block& b = *block;
    const Place place = __builtin_return_address(0);
    if (address % 8 != 0) fail({Kind::Misaligned, b.running, place}, "mbarrier at shared+%u: a multiple of 8 is needed", SharedMemory::inside(address));
    if (count == 0) fail({Kind::Instruction, b.running, place}, "mbarrier at shared+%u for 0 arrivals", SharedMemory::inside(address));
    check_own(address, Manner{.is_write = true}, place);
    Mbarrier fresh{address, count, count, 0, 0, false, {}, b.running, place, {}, {}, {}, {}};
    if (b.checks()) fresh.initialised = b.clocks.actor(b.running).stamp;
    for (Mbarrier& barrier : b.mbarriers) {
        if (barrier.address != address) continue;
        barrier = fresh;
        return;
    }
    if (b.mbarriers.size() == Clocks::mbarriers_max * b.cluster_blocks())
        fail({Kind::Instruction, b.running, place}, "more than %u mbarriers in a block", Clocks::mbarriers_max);
    b.mbarriers.push_back(fresh);
}

void mbarrier_fence_init() {
    for (Mbarrier& barrier : block->mbarriers) barrier.is_fenced |= barrier.initialiser == block->running;
}

void mbarrier_arrive(u32 address) { arrive(address, 0, false, __builtin_return_address(0)); }
void mbarrier_arrive_peer(u32 address) { arrive(address, 0, true, __builtin_return_address(0)); }
void mbarrier_arrive_expect(u32 address, u32 bytes) { arrive(address, bytes, false, __builtin_return_address(0)); }

namespace {

/// The slot, once its phase of this parity has ended.
u32 wait(u32 address, u32 parity, Place place) {
    Block& b = *block;
    check_own(address, Manner{}, place);
    const u32 slot = find_mbarrier(address, b.running, place);
    while ((b.mbarriers[slot].phase & 1) == parity) {
        b.self().waits_for = address;
        b.self().parity = parity;
        park(Wait::Mbarrier, place);
    }
    if (b.checks()) b.clocks.learn(b.running, b.mbarriers[slot].published);
    return slot;
}

}  // namespace

void mbarrier_wait(u32 address, u32 parity) { wait(address, parity, __builtin_return_address(0)); }

void mbarrier_wait_cluster(u32 address, u32 parity) {
    const u32 slot = wait(address, parity, __builtin_return_address(0));
    if (block->checks()) block->clocks.learn(block->running, block->mbarriers[slot].published_remote);
}

void fence_proxy_async() {
    block->self().fences++;
    mbarrier_fence_init();
}

}  // namespace emu
