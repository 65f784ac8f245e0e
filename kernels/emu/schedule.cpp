// Runs a launch: block after block, the blocks of a cluster together, and within them one thread after another until each waits or is done.
#include <cstdio>

#include "block.hpp"

namespace emu {

constinit thread_local Block* block = nullptr;

dim3 thread_index() { return block->self().index; }
dim3 block_index() {
    const u32* index = block->members[block->self().rank].index;
    return {index[0], index[1], index[2]};
}
dim3 block_size() { return {block->launch.block[0], block->launch.block[1], block->launch.block[2]}; }
dim3 grid_size() { return {block->launch.grid[0], block->launch.grid[1], block->launch.grid[2]}; }

u64 draw() {
    u64& x = block->random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x;
}

namespace {

void enter(u32 thread) {
    Block& b = *block;
    Fibre& from = b.self().fibre;
    if (thread == b.running) return;
    b.running = thread;
    b.report.switches++;
    switch_fibre(from, b.self().fibre);
}

/// A thread that can run, the first from `start` on, around the end; `nobody` if each of them waits.
u32 ready_from(u32 start) {
    const std::vector<Warp>& warps = block->warps;
    const u32 count = static_cast<u32>(warps.size()), first = start / warp_lanes % count;
    for (u32 i = 0; i <= count; i++) {
        const u32 w = (first + i) % count;
        const u32 lanes = i == 0 ? warps[w].ready & (all_lanes << start % warp_lanes) : warps[w].ready;
        if (lanes != 0) return w * warp_lanes + static_cast<u32>(__builtin_ctz(lanes));
    }
    return nobody;
}

/// The next thread that can run: in order without a seed, else from a random one on.
u32 pick() {
    const u32 lanes = static_cast<u32>(block->warps.size()) * warp_lanes;
    return ready_from(block->launch.config.seed == 0 ? (block->running + 1) % lanes : static_cast<u32>(draw() % lanes));
}

const char* waited_for(Wait wait) {
    switch (wait) {
        case Wait::Lanes: return "for the other lanes of its warp";
        case Wait::Barrier: return "at barrier";
        case Wait::Mbarrier: return "for the mbarrier at shared+";
        case Wait::Group: return "for the other warps of its warpgroup";
        case Wait::Cluster: return "at the cluster's barrier";
        default: return "for nothing";
    }
}

[[noreturn]] void fail_deadlock() {
    Block& b = *block;
    char text[360];
    size_t length = 0;
    u32 firsts[4], kinds = 0;
    for (u32 t = 0; t < b.threads_count && kinds < 4; t++) {
        const Thread& thread = b.threads[t];
        if (thread.wait == Wait::Finished) continue;
        bool is_known = false;
        for (u32 k = 0; k < kinds; k++) {
            const Thread& other = b.threads[firsts[k]];
            is_known |= other.wait == thread.wait && other.waits_for == thread.waits_for && other.place == thread.place;
        }
        if (is_known) continue;
        firsts[kinds++] = t;
        const bool has_number = thread.wait == Wait::Barrier || thread.wait == Wait::Mbarrier;
        const auto add = [&](const char* format, auto... values) {
            length += static_cast<size_t>(std::snprintf(text + length, sizeof text - length, format, values...));
        };
        add("%sthread %u ", kinds > 1 ? "; " : "", t % b.block_threads);
        if (b.cluster_blocks() > 1) add("of block rank %u ", thread.rank);
        add("waits %s", waited_for(thread.wait));
        if (has_number) add("%s%u", thread.wait == Wait::Barrier ? " " : "", SharedMemory::inside(thread.waits_for));
    }
    const u32 other = kinds > 1 ? firsts[1] : nobody;
    fail({Kind::Deadlock, firsts[0], b.threads[firsts[0]].place, other, other == nobody ? nullptr : b.threads[other].place}, "no thread can go on: %s",
         text);
}

void go_on() {
    Block& b = *block;
    const bool may_copy = b.launch.config.seed != 0 && !b.loads.empty() && draw() % 8 == 0;
    if (may_copy) do_bulk_load(draw() % b.loads.size());
    u32 next = pick();
    while (next == nobody && !b.loads.empty()) {
        do_bulk_load(b.launch.config.seed != 0 ? draw() % b.loads.size() : 0);
        next = pick();
    }
    if (next == nobody) fail_deadlock();
    enter(next);
}

void entry() {
    Block& b = *block;
    b.kernel(b.launch.params, b.launch.maps);
    const u32 rank = b.self().rank;
    b.self().wait = Wait::Finished;
    b.live--;
    b.members[rank].live--;
    leave_warp();
    barrier_after_exit();
    cluster_barrier_after_exit();
    if (b.members[rank].live == 0) check_finished_block(rank);
    if (b.live == 0) {
        if (b.is_last_cluster()) check_waited();
        switch_fibre(b.self().fibre, b.main);
    }
    go_on();
    __builtin_unreachable();
}

void reset(Thread& thread, u32 index) {
    const u32* size = block->launch.block;
    thread.wait = Wait::None;
    thread.place = nullptr;
    thread.waits_for = thread.parity = thread.accesses = 0;
    thread.fences.clear();
    thread.copies.clear();
    thread.copy_groups.clear();
    thread.busy.clear();
    thread.stores.clear();
    thread.store_groups.clear();
    thread.rank = index / block->block_threads;
    const u32 inside = index % block->block_threads;
    thread.index = {inside % size[0], inside / size[0] % size[1], inside / (size[0] * size[1])};
    thread.fibre = block->stacks.start(index, entry);
}

/// The members are the blocks from `first` on, counted with x fastest.
void begin_cluster(u64 first) {
    Block& b = *block;
    const u64 width = b.launch.grid[0], height = b.launch.grid[1];
    for (Member& member : b.members) {
        member = Member{};
        member.index[0] = static_cast<u32>(first % width);
        member.index[1] = static_cast<u32>(first / width % height);
        member.index[2] = static_cast<u32>(first / (width * height));
        member.live = b.block_threads;
        first++;
    }
    if (b.checks()) b.clocks.reset(b.threads_count, b.cluster_blocks());
    b.shared.begin_cluster(b.cluster_blocks(), b.launch.shared_bytes, b.checks() ? b.clocks.readers_of_block() : 0, b.checks());
    b.global.begin_cluster();
    b.cluster_barrier = ClusterBarrier{};
    b.mbarriers.clear();
    b.loads.clear();
    b.live = b.threads_count;
    b.running = 0;
    for (u32 t = 0; t < b.threads_count; t++) reset(b.threads[t], t);
    for (u32 w = 0; w < b.warps.size(); w++) {
        const u32 lanes = std::min(warp_lanes, b.threads_count - w * warp_lanes);
        b.warps[w].alive = b.warps[w].ready = lanes == warp_lanes ? all_lanes : (1u << lanes) - 1;
        b.warps[w].meetings.clear();
        b.warps[w].registers = 0;
        b.warps[w].registers_place = nullptr;
        b.warps[w].has_arrived = false;
    }
    b.groups.clear();
    b.groups.resize((b.warps.size() + group_warps - 1) / group_warps);
}

/// Runs a block, or a cluster, to its end. False if it failed.
bool run_cluster(u64 first) {
    Block& b = *block;
    begin_cluster(first);
    b.blocks_begun = first + b.cluster_blocks();
    b.report.blocks += b.cluster_blocks();
    switch_fibre(b.main, b.self().fibre);
    return !b.has_failed;
}

bool run_blocks() {
    Block& b = *block;
    for (u64 first = b.launch.first_block; first < b.launch.end_block; first += b.cluster_blocks())
        if (!run_cluster(first)) return false;
    return true;
}

}  // namespace

void park(Wait wait, Place place) {
    Block& b = *block;
    Thread& thread = b.self();
    thread.wait = wait;
    thread.place = place;
    if (wait != Wait::None) {
        thread.accesses = 0;
        b.warps[b.warp_of(b.running)].ready &= ~(1u << b.running % warp_lanes);
    }
    go_on();
}

void wake(u32 thread) {
    block->threads[thread].wait = Wait::None;
    block->warps[block->warp_of(thread)].ready |= 1u << thread % warp_lanes;
}

void wake_lanes(u32 warp, u32 lanes) {
    Clocks::for_lanes(lanes, [&](u32 lane) { wake(warp * warp_lanes + lane); });
}

bool run(Block& state) {
    block = &state;
    const Launch& launch = state.launch;
    state.block_threads = launch.block[0] * launch.block[1] * launch.block[2];
    state.threads_count = state.block_threads * state.cluster_blocks();
    state.random = launch.config.seed * 0x9e3779b97f4a7c15ull + 1;
    state.report = Report{};
    state.has_failed = state.has_waited = false;
    state.threads.resize(state.threads_count);
    state.warps.assign((state.threads_count + warp_lanes - 1) / warp_lanes, Warp{});
    state.global.begin_launch(launch.regions, launch.regions_count, state.checks(), launch.stream, launch.config.overlaps != 0);
    const bool is_clean = run_blocks();
    state.global.end_launch(launch.name);
    block = nullptr;
    return is_clean;
}

}  // namespace emu
