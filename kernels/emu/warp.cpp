// Lanes of a warp that act together: the meeting itself, __syncwarp, shuffles and votes.
#include "block.hpp"

namespace emu {

namespace {

bool tolerates_finished_lanes(Op op) {
    return op == Op::Syncwarp || op == Op::Barrier || op == Op::ClusterArrive || op == Op::ClusterWait;
}

u32 lanes_of(const Block& b, u32 warp) {
    const u32 lanes = std::min(warp_lanes, b.threads_count - warp * warp_lanes);
    return lanes == warp_lanes ? all_lanes : (1u << lanes) - 1;
}

u32 first_arrived(const Meeting& meeting, u32 warp) {
    return warp * warp_lanes + static_cast<u32>(__builtin_ctz(meeting.arrived));
}

/// The open meeting that this lane can join, or a new one. Others may be open that name some of the same lanes: halves of a warp may meet by themselves while some of the warp wait for
/// all of it. But where this lane is waited for there by one that it waits for here, neither ever comes.
Meeting& find(Warp& warp, u32 w, Op op, u32 lanes, Place place, Meeting::Act act) {
    const u32 own = 1u << block->running % warp_lanes;
    Meeting* found = nullptr;
    for (Meeting& meeting : warp.meetings) {
        if (meeting.op == op && meeting.lanes == lanes) {
            found = &meeting;
            continue;
        }
        if ((meeting.lanes & own) == 0 || (meeting.arrived & lanes) == 0) continue;
        const u32 other = w * warp_lanes + static_cast<u32>(__builtin_ctz(meeting.arrived & lanes));
        fail({Kind::Divergence, block->running, place, other, block->threads[other].place},
             "lanes of warp %u are at two different collective instructions, or name different lanes (%08x and %08x)", w, lanes,
             meeting.lanes);
    }
    if (found != nullptr) return *found;
    warp.meetings.push_back(Meeting{op, lanes, 0, act, {}});
    return warp.meetings.back();
}

void close(Warp& warp, const Meeting& meeting) {
    for (size_t i = 0; i < warp.meetings.size(); i++) {
        if (warp.meetings[i].op != meeting.op || warp.meetings[i].lanes != meeting.lanes) continue;
        warp.meetings[i] = warp.meetings.back();
        warp.meetings.pop_back();
        return;
    }
}

/// An open meeting that names a lane, null if there is none.
Meeting* naming(Warp& warp, u32 bit) {
    for (Meeting& meeting : warp.meetings)
        if ((meeting.lanes & bit) != 0) return &meeting;
    return nullptr;
}

}  // namespace

void meet(Op op, u32 lanes, const void* operand, Place place, Meeting::Act act) {
    Block& b = *block;
    const u32 w = b.warp_of(b.running), lane = b.running % warp_lanes;
    Warp& warp = b.warps[w];
    lanes &= lanes_of(b, w);
    if ((lanes >> lane & 1) == 0)
        fail({Kind::Divergence, b.running, place}, "lane %u executes a collective of lanes %08x", lane, lanes);
    if (tolerates_finished_lanes(op)) lanes &= warp.alive;
    if ((lanes & ~warp.alive) != 0) {
        fail({Kind::Divergence, b.running, place}, "a collective of lanes %08x, of which %08x have left the kernel", lanes,
             lanes & ~warp.alive);
    }
    Meeting& meeting = find(warp, w, op, lanes, place, act);
    meeting.operands[lane] = operand;
    meeting.arrived |= 1u << lane;
    b.self().place = place;
    if (meeting.arrived != meeting.lanes) return park(Wait::Lanes, place);
    Meeting complete = meeting;
    close(warp, complete);
    const u32 others = complete.lanes & ~(1u << lane);
    if (act(w, complete, place) == Next::GoOn) return wake_lanes(w, others);
    park(b.self().wait, place);
}

void leave_warp() {
    Block& b = *block;
    const u32 thread = b.running, w = b.warp_of(thread), bit = 1u << thread % warp_lanes;
    Warp& warp = b.warps[w];
    warp.alive &= ~bit;
    warp.ready &= ~bit;
    while (Meeting* const meeting = naming(warp, bit)) {
        const u32 other = first_arrived(*meeting, w);
        if (!tolerates_finished_lanes(meeting->op)) {
            fail({Kind::Divergence, thread, b.threads[other].place, other, b.threads[other].place},
                 "lane %u leaves the kernel while others of its warp wait for it in a collective", thread % warp_lanes);
        }
        meeting->lanes &= ~bit;
        if (meeting->lanes != meeting->arrived) continue;
        Meeting complete = *meeting;
        close(warp, complete);
        if (complete.act(w, complete, b.threads[other].place) == Next::GoOn) wake_lanes(w, complete.lanes);
    }
}

void warp_barrier(u32 lanes) {
    meet(Op::Syncwarp, lanes, nullptr, __builtin_return_address(0), [](u32 w, Meeting& meeting, Place) {
        if (block->checks()) block->clocks.meet(w, meeting.lanes);
        return Next::GoOn;
    });
}

namespace {

struct ShuffleOperand {
    u32 value;
    Shuffle how;
    u32 operand, width;
    u32* result;
};

/// The lane that is read, as CUDA defines it: within segments of `width`; out of the segment means one's own value.
u32 source_lane(const ShuffleOperand& o, u32 lane) {
    const u32 first = lane / o.width * o.width, last = first + o.width - 1;
    switch (o.how) {
        case Shuffle::Index: return first + o.operand % o.width;
        case Shuffle::Xor: return (lane ^ o.operand) <= last ? lane ^ o.operand : lane;
        case Shuffle::Up: return lane >= first + o.operand ? lane - o.operand : lane;
        case Shuffle::Down: return lane + o.operand <= last ? lane + o.operand : lane;
    }
    return lane;
}

Next act_shuffle(u32 w, Meeting& meeting, Place place) {
    Clocks::for_lanes(meeting.lanes, [&](u32 lane) {
        const auto& own = *static_cast<const ShuffleOperand*>(meeting.operands[lane]);
        const u32 source = source_lane(own, lane);
        if ((meeting.lanes >> source & 1) == 0) {
            fail({Kind::Divergence, w * warp_lanes + lane, place}, "lane %u reads from lane %u, which takes no part (lanes %08x)", lane,
                 source, meeting.lanes);
        }
        *own.result = static_cast<const ShuffleOperand*>(meeting.operands[source])->value;
    });
    return Next::GoOn;
}

struct VoteOperand {
    bool yes;
    u32* result;
};

Next act_vote(u32, Meeting& meeting, Place) {
    u32 ballot = 0;
    Clocks::for_lanes(meeting.lanes, [&](u32 lane) {
        ballot |= static_cast<u32>(static_cast<const VoteOperand*>(meeting.operands[lane])->yes) << lane;
    });
    Clocks::for_lanes(meeting.lanes, [&](u32 lane) { *static_cast<const VoteOperand*>(meeting.operands[lane])->result = ballot; });
    return Next::GoOn;
}

}  // namespace

u32 shuffle(u32 lanes, u32 value, Shuffle how, u32 operand, u32 width) {
    u32 result = 0;
    const ShuffleOperand o{value, how, operand, width, &result};
    meet(Op::Shuffle, lanes, &o, __builtin_return_address(0), act_shuffle);
    return result;
}

u32 vote(u32 lanes, bool yes) {
    u32 result = 0;
    const VoteOperand o{yes, &result};
    meet(Op::Vote, lanes, &o, __builtin_return_address(0), act_vote);
    return result;
}

}  // namespace emu
