// Blocks of a cluster: their ranks, each other's shared memory, and the barrier of all their threads. A warp arrives as a whole.
#include "cluster.hpp"

#include "block.hpp"

namespace emu {

namespace {

/// Whether a warp's last arrival belongs to a phase that has ended.
bool is_over(const Warp& warp) { return warp.arrival_phase != block->cluster_barrier.phase; }

void leave_barrier(u32 w) {
    Block& b = *block;
    b.warps[w].has_arrived = false;
    if (!b.checks()) return;
    const u32 lanes = b.warps[w].alive;
    Clocks::for_lanes(lanes, [&](u32 lane) { b.clocks.learn(w * warp_lanes + lane, b.cluster_barrier.published); });
    b.clocks.meet(w, lanes, lanes);
}

/// Ends the phase if every warp that has not left the kernel has arrived.
void end_phase_if_complete() {
    Block& b = *block;
    for (const Warp& warp : b.warps)
        if (warp.alive != 0 && (!warp.has_arrived || is_over(warp))) return;
    ClusterBarrier& barrier = b.cluster_barrier;
    barrier.phase++;
    barrier.published = std::move(barrier.arriving);
    barrier.arriving.clear();
    for (u32 w = 0; w < b.warps.size(); w++) {
        const u32 lanes = b.warps[w].alive;
        if (lanes == 0 || b.threads[w * warp_lanes + static_cast<u32>(__builtin_ctz(lanes))].wait != Wait::Cluster) continue;
        leave_barrier(w);
        wake_lanes(w, lanes);
    }
}

Next act_arrive(u32 w, Meeting& meeting, Place place) {
    Block& b = *block;
    Warp& warp = b.warps[w];
    if (warp.has_arrived) fail({Kind::Barrier, b.running, place}, "warp arrives at the cluster's barrier again and has not waited since");
    warp.has_arrived = true;
    warp.arrival_phase = b.cluster_barrier.phase;
    if (b.checks()) {
        Clocks::for_lanes(meeting.lanes, [&](u32 lane) { b.clocks.publish(w * warp_lanes + lane, b.cluster_barrier.arriving); });
        b.clocks.advance(w);
    }
    end_phase_if_complete();
    return Next::GoOn;
}

Next act_wait(u32 w, Meeting& meeting, Place place) {
    Block& b = *block;
    Warp& warp = b.warps[w];
    if (!warp.has_arrived) fail({Kind::Barrier, b.running, place}, "warp waits at the cluster's barrier and has not arrived");
    if (is_over(warp)) {
        leave_barrier(w);
        return Next::GoOn;
    }
    Clocks::for_lanes(meeting.lanes, [&](u32 lane) { b.threads[w * warp_lanes + lane].wait = Wait::Cluster; });
    return Next::Stay;
}

}  // namespace

u32 cluster_rank() { return block->self().rank; }

u32 peer_address(u32 address, u32 rank) {
    Block& b = *block;
    if (rank >= b.cluster_blocks())
        fail({Kind::Instruction, b.running, __builtin_return_address(0)}, "mapa to block %u of a cluster of %u", rank, b.cluster_blocks());
    return SharedMemory::in_window(rank, address);
}

void cluster_arrive() { meet(Op::ClusterArrive, all_lanes, nullptr, __builtin_return_address(0), act_arrive); }
void cluster_wait() { meet(Op::ClusterWait, all_lanes, nullptr, __builtin_return_address(0), act_wait); }

void cluster_barrier_after_exit() {
    if (block->cluster_blocks() > 1) end_phase_if_complete();
}

void check_present(u32 rank, Place place) {
    Block& b = *block;
    if (b.members[rank].live == 0)
        fail({Kind::InFlight, b.running, place}, "the block of rank %u has left the kernel: its shared memory is gone", rank);
}

void remember_remote(u32 rank, const RemoteAccess& access) {
    std::vector<RemoteAccess>& remote = block->members[rank].remote;
    for (RemoteAccess& earlier : remote) {
        if (earlier.stamp.agent != access.stamp.agent || earlier.stamp.lane != access.stamp.lane || earlier.slot != access.slot) continue;
        earlier = access;
        return;
    }
    remote.push_back(access);
}

}  // namespace emu
