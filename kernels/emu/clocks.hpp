// Vector clocks: who knows of whose accesses.
//
// An agent is what can be ordered: a warp, a warpgroup's tensor core, a warp's bulk stores, the copies that arrive on one
// mbarrier, and all launches before this one together. Each agent has a clock that advances when it publishes. Each *thread* has its own knowledge, one number for each
// agent: everything that agent did up to that clock happened before. Lanes of one warp are apart until the warp meets:
// `met` is the clock from which on the accesses of two lanes are unordered.
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

    bool is_ordered_after(const Stamp& earlier) const {
        if (earlier.agent != stamp.agent) return known[earlier.agent] >= earlier.clock;
        return earlier.lane == stamp.lane || earlier.clock < met;
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
        const u32 warp = thread / warp_lanes;
        return {{warp, thread % warp_lanes, clock_[warp]}, known(thread), met_[warp], thread};
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

    /// The lanes of a warp have met: they share their knowledge, and their earlier accesses are ordered.
    void meet(u32 warp, u32 lanes) {
        std::vector<u32> sum;
        for_lanes(lanes, [&](u32 lane) { publish(warp * warp_lanes + lane, sum); });
        for_lanes(lanes, [&](u32 lane) { learn(warp * warp_lanes + lane, sum); });
        met_[warp] = advance(warp);
    }

    template <class F>
    static void for_lanes(u32 lanes, F each) {
        for (; lanes != 0; lanes &= lanes - 1) each(static_cast<u32>(__builtin_ctz(lanes)));
    }

   private:
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
};

}  // namespace emu
