// Lanes of a warp that act together: the meeting itself, __syncwarp, shuffles and votes.
#include <bit>

#include "block.hpp"

namespace emu {

namespace {

bool tolerates_finished_lanes(Op op) {
    return op == Op::Syncwarp || op == Op::Barrier || op == Op::ClusterArrive || op == Op::ClusterWait;
}

const char* name(Op op) {
    switch (op) {
        case Op::None: return "none";
        case Op::Syncwarp: return "__syncwarp";
        case Op::Shuffle: return "a shuffle";
        case Op::Vote: return "a vote";
        case Op::MatrixLoad: return "ldmatrix";
        case Op::MatrixStore: return "stmatrix";
        case Op::Product: return "mma.sync";
        case Op::Barrier: return "a barrier";
        case Op::Group: return "wgmma";
        case Op::Registers: return "setmaxnreg";
        case Op::ClusterArrive: return "an arrival at the cluster's barrier";
        case Op::ClusterWait: return "a wait at the cluster's barrier";
    }
    return "none";
}

/// PTX's `.aligned`: all lanes execute the very same instruction, not another one of its kind.
bool is_aligned(Op op) { return op != Op::Syncwarp && op != Op::Shuffle && op != Op::Vote; }

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
        const Fault fault = {Kind::Divergence, block->running, place, other, block->threads[other].place};
        if (meeting.op != op) fail(fault, "lanes of warp %u are at two different collective instructions: %s and %s", w, name(op), name(meeting.op));
        fail(fault, "lanes of warp %u name different lanes for %s: %08x and %08x", w, name(op), lanes, meeting.lanes);
    }
    if (found != nullptr) return *found;
    warp.meetings.push_back(Meeting{op, lanes, 0, place, act, {}});
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
    if (is_aligned(op) && place != meeting.place && !is_same_line(place, meeting.place)) {
        const u32 other = first_arrived(meeting, w);
        fail({Kind::Divergence, b.running, place, other, meeting.place},
             "lanes of warp %u execute this instruction in two places: it is one that all lanes execute in the same", w);
    }
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
        if (block->checks()) block->clocks.meet(w, meeting.lanes, block->warps[w].alive);
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

/// The lane that is read, as PTX defines it: within segments of `width`, by the operand's low five bits; out of the segment means one's own value.
u32 source_lane(const ShuffleOperand& o, u32 lane) {
    const u32 first = lane / o.width * o.width, last = first + o.width - 1, operand = o.operand % warp_lanes;
    switch (o.how) {
        case Shuffle::Index: return first + operand % o.width;
        case Shuffle::Xor: return (lane ^ operand) <= last ? lane ^ operand : lane;
        case Shuffle::Up: return lane >= first + operand ? lane - operand : lane;
        case Shuffle::Down: return lane + operand <= last ? lane + operand : lane;
    }
    return lane;
}

Next act_shuffle(u32 w, Meeting& meeting, Place place) {
    const auto& first = *static_cast<const ShuffleOperand*>(meeting.operands[__builtin_ctz(meeting.lanes)]);
    Clocks::for_lanes(meeting.lanes, [&](u32 lane) {
        const auto& own = *static_cast<const ShuffleOperand*>(meeting.operands[lane]);
        if (own.how != first.how) fail({Kind::Divergence, w * warp_lanes + lane, place}, "lanes of warp %u shuffle in two ways", w);
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
    Vote how;
    bool yes;
    u32* result;
};

Next act_vote(u32 w, Meeting& meeting, Place place) {
    const Vote how = static_cast<const VoteOperand*>(meeting.operands[__builtin_ctz(meeting.lanes)])->how;
    u32 ballot = 0;
    Clocks::for_lanes(meeting.lanes, [&](u32 lane) {
        const auto& own = *static_cast<const VoteOperand*>(meeting.operands[lane]);
        if (own.how != how) fail({Kind::Divergence, w * warp_lanes + lane, place}, "lanes of warp %u vote in two ways", w);
        ballot |= static_cast<u32>(own.yes) << lane;
    });
    Clocks::for_lanes(meeting.lanes, [&](u32 lane) { *static_cast<const VoteOperand*>(meeting.operands[lane])->result = ballot; });
    return Next::GoOn;
}

}  // namespace

u32 shuffle(u32 lanes, u32 value, Shuffle how, u32 operand, u32 width) {
    const Place place = __builtin_return_address(0);
    if (!std::has_single_bit(width) || width > warp_lanes)
        fail({Kind::Instruction, block->running, place}, "a shuffle of width %u: a power of two up to 32 is needed", width);
    u32 result = 0;
    const ShuffleOperand o{value, how, operand, width, &result};
    meet(Op::Shuffle, lanes, &o, place, act_shuffle);
    return result;
}

u32 vote(u32 lanes, Vote how, bool yes) {
    u32 result = 0;
    const VoteOperand o{how, yes, &result};
    meet(Op::Vote, lanes, &o, __builtin_return_address(0), act_vote);
    return result;
}

}  // namespace emu
