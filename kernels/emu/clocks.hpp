// Vector clocks: who knows of whose accesses.
//
// An agent is what can be ordered: a warp, a warpgroup's tensor core, a warp's bulk stores, the copies that arrive on one
// mbarrier, and all launches before this one together. Each agent has a clock that advances when it publishes. Each *thread* has its own knowledge, one number for each
// agent: everything that agent did up to that clock happened before. Lanes of one warp are apart until they meet:
// `met` is the clock from which on the accesses of two lanes are unordered; where some lanes met without the others, each has its own such clock for every other one.
#pragma once
#include <algorithm>
#include <vector>

#include "types.hpp"

namespace emu {

/// One access as the shadow memory remembers it.
struct Stamp {
    u32 agent;
    u32 lane;
    u32 clock;
};

/// Who is about to access: its own stamp, its knowledge, and since when its lanes are apart.
struct Actor {
    Stamp stamp;
    const u32* known;
    u32 met;
    u32 thread;
    /// Since when this lane is apart from each other one of its warp; null where no lanes of the warp have met without the others.
    const u32* met_lanes = nullptr;

    bool is_ordered_after(const Stamp& earlier) const {
        if (earlier.lane == stamp.lane && earlier.agent == stamp.agent) return true;
        return knows(earlier.agent, earlier.clock) || has_met(earlier.agent, 1u << earlier.lane % warp_lanes, earlier.clock);
    }
    /// The same for several lanes of one agent.
    bool is_ordered_after(u32 agent, u32 lanes, u32 clock) const {
        if (agent == stamp.agent) lanes &= ~(1u << stamp.lane % warp_lanes);
        return lanes == 0 || knows(agent, clock) || has_met(agent, lanes, clock);
    }

   private:
    bool knows(u32 agent, u32 clock) const { return agent == stamp.agent ? clock < met : known[agent] >= clock; }
    bool has_met(u32 agent, u32 lanes, u32 clock) const {
        if (agent != stamp.agent || met_lanes == nullptr) return false;
        for (; lanes != 0; lanes &= lanes - 1)
            if (clock >= met_lanes[__builtin_ctz(lanes)]) return false;
        return true;
    }
};

class Clocks {
   public:
    /// Of one block.
    static constexpr u32 mbarriers_max = 32;

    /// All agents at clock 1, nobody knows anything. `threads` of all `blocks` of a cluster.
    void reset(u32 threads, u32 blocks) {
        warps_ = (threads + warp_lanes - 1) / warp_lanes;
        groups_ = (warps_ + group_warps - 1) / group_warps;
        agents_ = 2 * warps_ + groups_ + mbarriers_max * blocks + 1;
        clock_.assign(agents_, 1);
        met_.assign(warps_, 1);
        met_lanes_.assign(warps_, {});
        known_.assign(size_t{threads} * agents_, 0);
        name_readers(blocks);
    }

    u32 agents() const { return agents_; }
    /// Agents that read shared memory, of all blocks: all but the mbarriers and the launches before, which come last.
    u32 readers() const { return 2 * warps_ + groups_; }
    /// Those of one block, which alone read its shared memory, counted from 0.
    u32 readers_of_block() const { return static_cast<u32>(reader_.size()) / blocks_; }
    u32 reader(u32 rank, u32 slot) const { return reader_[rank * readers_of_block() + slot]; }
    u32 reader_slot(u32 agent) const { return slot_[agent]; }
    u32 group_agent(u32 group) const { return warps_ + group; }
    u32 bulk_agent(u32 warp) const { return warps_ + groups_ + warp; }
    u32 mbarrier_agent(u32 slot) const { return readers() + slot; }
    /// The launches before: they are at clock 1 for ever, and who knows of that knows that they are over.
    u32 launches_agent() const { return agents_ - 1; }
    bool is_warp(u32 agent) const { return agent < warps_; }

    u32 now(u32 agent) const { return clock_[agent]; }
    u32 advance(u32 agent) { return ++clock_[agent]; }
    u32* known(u32 thread) { return known_.data() + size_t{thread} * agents_; }
    u32 met(u32 warp) const { return met_[warp]; }

    Actor actor(u32 thread) {
        const u32 warp = thread / warp_lanes, lane = thread % warp_lanes;
        const std::vector<u32>& apart = met_lanes_[warp];
        return {{warp, lane, clock_[warp]}, known(thread), met_[warp], thread, apart.empty() ? nullptr : apart.data() + lane * warp_lanes};
    }

    /// Adds what the thread knows, and its own warp's past, to `sum`.
    void publish(u32 thread, std::vector<u32>& sum) {
        const u32* own = known(thread);
        const u32 warp = thread / warp_lanes;
        sum.resize(agents_, 0);
        for (u32 a = 0; a < agents_; a++) sum[a] = std::max(sum[a], own[a]);
        sum[warp] = std::max(sum[warp], clock_[warp]);
    }

    void learn(u32 thread, const std::vector<u32>& sum) {
        if (sum.empty()) return;
        u32* own = known(thread);
        for (u32 a = 0; a < agents_; a++) own[a] = std::max(own[a], sum[a]);
    }

    /// Lanes of a warp have met, of those that are `alive`: they share their knowledge, and their earlier accesses are ordered.
    void meet(u32 warp, u32 lanes, u32 alive) {
        const bool is_whole = (alive & ~lanes) == 0;
        std::vector<u32> sum;
        for_lanes(lanes, [&](u32 lane) { publish(warp * warp_lanes + lane, sum); });
        // Of the lanes that stayed away nothing is learnt.
        if (!is_whole) {
            sum[warp] = 0;
            for_lanes(lanes, [&](u32 lane) { sum[warp] = std::max(sum[warp], known(warp * warp_lanes + lane)[warp]); });
        }
        for_lanes(lanes, [&](u32 lane) { learn(warp * warp_lanes + lane, sum); });
        const u32 now = advance(warp);
        if (is_whole)
            met_[warp] = now;
        else
            meet_apart(warp, lanes, now);
    }

    template <class F>
    static void for_lanes(u32 lanes, F each) {
        for (; lanes != 0; lanes &= lanes - 1) each(static_cast<u32>(__builtin_ctz(lanes)));
    }

    /// A thread has waited for arrivals of its own warp's lanes, each at the clock that stands at its thread's number (0: none).
    void learn_arrivals(u32 thread, const std::vector<u32>& arrivals) {
        if (arrivals.empty()) return;
        const u32 warp = thread / warp_lanes, own = thread % warp_lanes;
        for (u32 lane = 0; lane < warp_lanes && warp * warp_lanes + lane < arrivals.size(); lane++) {
            const u32 clock = arrivals[warp * warp_lanes + lane];
            if (lane == own || clock < met_[warp]) continue;
            met_lanes_[warp].resize(warp_lanes * warp_lanes, 0);
            u32& since = met_lanes_[warp][own * warp_lanes + lane];
            since = std::max(since, clock + 1);
        }
    }

    /// Up to which clock a thread knows all that its warp's lanes did.
    u32 known_of_own_warp(u32 thread) const {
        const u32 warp = thread / warp_lanes, own = thread % warp_lanes;
        if (met_lanes_[warp].empty()) return met_[warp] - 1;
        u32 least = ~0u;
        for (u32 lane = 0; lane < warp_lanes; lane++)
            if (lane != own) least = std::min(least, met_lanes_[warp][own * warp_lanes + lane]);
        return std::max(met_[warp], least) - 1;
    }

   private:
    /// What one of them knows of a lane, each of them knows.
    void meet_apart(u32 warp, u32 lanes, u32 now) {
        std::vector<u32>& apart = met_lanes_[warp];
        apart.resize(warp_lanes * warp_lanes, 0);
        for (u32 other = 0; other < warp_lanes; other++) {
            u32 latest = (lanes >> other & 1) != 0 ? now : 0;
            for_lanes(lanes, [&](u32 lane) { latest = std::max(latest, apart[lane * warp_lanes + other]); });
            for_lanes(lanes, [&](u32 lane) { apart[lane * warp_lanes + other] = latest; });
        }
    }

    void name_readers(u32 blocks) {
        blocks_ = blocks;
        reader_.clear();
        slot_.resize(readers());
        for (u32 rank = 0; rank < blocks; rank++) {
            u32 slot = 0;
            const auto name = [&](u32 first, u32 all) {
                for (u32 i = rank * (all / blocks); i < (rank + 1) * (all / blocks); i++) {
                    reader_.push_back(first + i);
                    slot_[first + i] = slot++;
                }
            };
            name(0, warps_);
            name(warps_, groups_);
            name(warps_ + groups_, warps_);
        }
    }

    u32 warps_ = 0, groups_ = 0, agents_ = 0, blocks_ = 1;
    std::vector<u32> clock_, met_, known_, reader_, slot_;
    /// Of each warp: since when a lane is apart from another, [lane][other]; empty until some meet without the others.
    std::vector<std::vector<u32>> met_lanes_;
};

}  // namespace emu
