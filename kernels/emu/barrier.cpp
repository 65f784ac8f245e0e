// The sixteen barriers of a block. Barrier 0 without a count is __syncthreads. A warp arrives as a whole.
#include "barrier.hpp"

#include "block.hpp"
#include "device.hpp"

namespace emu {

namespace {

struct BarrierOperand {
    u32 id;
    /// 0: all threads that have not left the kernel.
    u32 threads;
    bool waits;
};

void release(Barrier& barrier) {
    Block& b = *block;
    for (const u32 w : barrier.warps_waiting) {
        const u32 lanes = b.warps[w].alive;
        if (b.checks()) {
            Clocks::for_lanes(lanes, [&](u32 lane) { b.clocks.learn(w * warp_lanes + lane, barrier.knowledge); });
            b.clocks.meet(w, lanes, lanes);
        }
        wake_lanes(w, lanes);
    }
    barrier = Barrier{};
}

void publish(Barrier& barrier, u32 w, u32 lanes) {
    if (!block->checks()) return;
    Clocks::for_lanes(lanes, [&](u32 lane) { block->clocks.publish(w * warp_lanes + lane, barrier.knowledge); });
    block->clocks.advance(w);
}

bool is_complete(const Barrier& barrier, const Member& member) {
    return barrier.expected == 0 ? barrier.arrived == member.live : barrier.arrived == barrier.expected;
}

Next act_barrier(u32 w, Meeting& meeting, Place place) {
    Block& b = *block;
    const auto& first = *static_cast<const BarrierOperand*>(meeting.operands[__builtin_ctz(meeting.lanes)]);
    Clocks::for_lanes(meeting.lanes, [&](u32 lane) {
        const auto& other = *static_cast<const BarrierOperand*>(meeting.operands[lane]);
        if (other.id == first.id && other.threads == first.threads && other.waits == first.waits) return;
        fail({Kind::Divergence, w * warp_lanes + lane, b.threads[w * warp_lanes + lane].place, b.running, place},
             "lanes of warp %u are at different barriers (%u and %u)", w, other.id, first.id);
    });
    Member& member = b.member_of_warp(w);
    Barrier& barrier = member.barriers[first.id];
    if (barrier.arrived != 0 && barrier.expected != first.threads) {
        fail({Kind::Barrier, b.running, place}, "barrier %u is used with %u threads here and with %u by those who arrived before", first.id,
             first.threads, barrier.expected);
    }
    barrier.expected = first.threads;
    barrier.arrived += first.threads == 0 ? static_cast<u32>(__builtin_popcount(meeting.lanes)) : warp_lanes;
    publish(barrier, w, meeting.lanes);
    if (first.waits) barrier.warps_waiting.push_back(w);
    if (is_complete(barrier, member)) {
        release(barrier);
        return Next::GoOn;
    }
    if (!first.waits) return Next::GoOn;
    Clocks::for_lanes(meeting.lanes, [&](u32 lane) {
        Thread& thread = b.threads[w * warp_lanes + lane];
        thread.wait = Wait::Barrier;
        thread.waits_for = first.id;
    });
    return Next::Stay;
}

void enter(const BarrierOperand& operand, Place place) {
    if (operand.id > 15) fail({Kind::Barrier, block->running, place}, "barrier %u: there are 16", operand.id);
    if (operand.threads % warp_lanes != 0)
        fail({Kind::Barrier, block->running, place}, "barrier %u with %u threads: a multiple of 32 is needed", operand.id, operand.threads);
    if (operand.threads == 0 && (operand.id != 0 || !operand.waits))
        fail({Kind::Barrier, block->running, place}, "barrier %u with 0 threads: only __syncthreads means all there are", operand.id);
    meet(Op::Barrier, all_lanes, &operand, place, act_barrier);
}

}  // namespace

void block_barrier() { enter({0, 0, true}, __builtin_return_address(0)); }
void named_barrier_sync(u32 id, u32 threads) { enter({id, threads, true}, __builtin_return_address(0)); }
void named_barrier_arrive(u32 id, u32 threads) { enter({id, threads, false}, __builtin_return_address(0)); }

void barrier_after_exit() {
    Member& member = block->members[block->self().rank];
    Barrier& barrier = member.barriers[0];
    if (barrier.arrived != 0 && barrier.expected == 0 && member.live != 0 && is_complete(barrier, member)) release(barrier);
}

}  // namespace emu
