// mbarriers: arrivals and expected bytes end a phase; who waits for it learns what those who arrived knew.
#include "mbarrier.hpp"

#include "block.hpp"

namespace emu {

namespace {

/// What an mbarrier has room for, in arrivals and in bytes under way (PTX ISA, "Contents of the mbarrier object").
constexpr int64_t count_max = (1 << 20) - 1;

void add(std::vector<u32>& sum, const std::vector<u32>& known) {
    sum.resize(std::max(sum.size(), known.size()), 0);
    for (size_t a = 0; a < known.size(); a++) sum[a] = std::max(sum[a], known[a]);
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

/// Bytes that are announced are added, those that have come taken away; they may come first.
void count_bytes(u32 slot, int64_t bytes, u32 thread, Place place) {
    Mbarrier& barrier = block->mbarriers[slot];
    barrier.bytes_expected += bytes;
    if (barrier.bytes_expected >= -count_max && barrier.bytes_expected <= count_max) return;
    fail({Kind::Barrier, thread, place}, "mbarrier at shared+%u counts %lld bytes under way, and no more than %lld either way fit",
         SharedMemory::inside(barrier.address), static_cast<long long>(barrier.bytes_expected), static_cast<long long>(count_max));
}

void end_phase_if_complete(u32 slot) {
    Block& b = *block;
    Mbarrier& barrier = b.mbarriers[slot];
    if (barrier.pending != 0 || barrier.bytes_expected != 0) return;
    barrier.phase++;
    barrier.pending = barrier.count;
    add(barrier.published, barrier.arriving);
    add(barrier.published_lanes, barrier.arriving_lanes);
    barrier.arriving.clear();
    barrier.arriving_lanes.clear();
    for (u32 t = 0; t < b.threads_count; t++) {
        const Thread& thread = b.threads[t];
        if (thread.wait == Wait::Mbarrier && thread.waits_for == barrier.address && thread.parity != (barrier.phase & 1)) wake(t);
    }
}

namespace {

/// mbarrier.init, arrive and wait name their own block's.
void check_own(u32 address, Manner manner, Place place) { block->shared.check_bounds(address, 8, block->running, manner, place); }

/// What the running thread knows goes to those who will wait; to another block only what asynchronous agents have done.
void publish(Mbarrier& barrier, u32 slot, Place place) {
    Block& b = *block;
    const u32 rank = SharedMemory::rank(barrier.address);
    if (rank == b.self().rank) {
        barrier.arriving_lanes.resize(b.threads_count, 0);
        barrier.arriving_lanes[b.running] = b.clocks.now(b.warp_of(b.running));
        return b.clocks.publish(b.running, barrier.arriving);
    }
    remember_remote(rank, {b.clocks.actor(b.running).stamp, b.running, place, slot, barrier.phase});
    std::vector<u32> known;
    b.clocks.publish(b.running, known);
    for (u32 agent = 0; b.clocks.is_warp(agent); agent++) known[agent] = 0;
    add(barrier.arriving, known);
}

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
        publish(barrier, slot, place);
        b.clocks.advance(b.warp_of(b.running));
    }
    count_bytes(slot, bytes, b.running, place);
    barrier.pending--;
    end_phase_if_complete(slot);
}

}  // namespace

void mbarrier_init(u32 address, u32 count) {
    Block& b = *block;
    const Place place = __builtin_return_address(0);
    if (address % 8 != 0) fail({Kind::Misaligned, b.running, place}, "mbarrier at shared+%u: a multiple of 8 is needed", SharedMemory::inside(address));
    if (count == 0 || count > count_max)
        fail({Kind::Instruction, b.running, place}, "mbarrier at shared+%u for %u arrivals: 1 to %lld are possible", SharedMemory::inside(address), count,
             static_cast<long long>(count_max));
    check_own(address, Manner{.is_write = true}, place);
    for (const Mbarrier& barrier : b.mbarriers) {
        if (barrier.address != address) continue;
        fail({Kind::Barrier, b.running, place, barrier.initialiser, barrier.place}, "mbarrier at shared+%u is initialised again", SharedMemory::inside(address));
    }
    Mbarrier fresh{address, count, count, 0, 0, 0, false, {}, b.running, place, {}, {}, {}, {}};
    if (b.checks()) {
        const Actor actor = b.clocks.actor(b.running);
        fresh.initialised = actor.stamp;
        b.shared.access(address, 8, actor, actor.stamp, Manner{.is_write = true, .is_mbarrier = true}, place);
        b.shared.hold_mbarrier(address);
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

void mbarrier_wait(u32 address, u32 parity) {
    Block& b = *block;
    const Place place = __builtin_return_address(0);
    check_own(address, Manner{}, place);
    if (parity > 1) fail({Kind::Instruction, b.running, place}, "wait for parity %u of the mbarrier at shared+%u: 0 or 1 is needed", parity, SharedMemory::inside(address));
    const u32 slot = find_mbarrier(address, b.running, place);
    while ((b.mbarriers[slot].phase & 1) == parity) {
        b.self().waits_for = address;
        b.self().parity = parity;
        park(Wait::Mbarrier, place);
    }
    b.mbarriers[slot].phase_seen = b.mbarriers[slot].phase;
    if (!b.checks()) return;
    b.clocks.learn(b.running, b.mbarriers[slot].published);
    b.clocks.learn_arrivals(b.running, b.mbarriers[slot].published_lanes);
}

void fence_proxy_async() {
    if (block->checks()) block->self().fences.push_back(block->clocks.actor(block->running).stamp.clock);
    mbarrier_fence_init();
}

}  // namespace emu
