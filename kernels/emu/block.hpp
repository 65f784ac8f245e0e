// The state of one running launch. One per operating system thread; kernels' threads are its fibres.
#pragma once
#include <deque>
#include <memory>
#include <vector>

#include "clocks.hpp"
#include "device.hpp"
#include "fibre.hpp"
#include "memory.hpp"
#include "report.hpp"
#include "tensor_map.hpp"
#include "types.hpp"

namespace emu {

enum class Mode : u32 {
    Eager = 0,  // asynchronous work is done where it is issued
    Late = 1,   // asynchronous work is done at the last moment: when it is waited for, or when nothing else can run
};

/// How to run (plain C layout).
struct Config {
    u64 seed;
    u32 mode;
    u32 checks;
    u32 shared_bytes_max;
    /// Whether it may begin while the launches before it in its stream still run.
    u32 overlaps;
};

enum class Wait : u8 { None, Lanes, Barrier, Mbarrier, Group, Cluster, Finished };

struct CopyAsync {
    u32 destination;
    u32 bytes;
    const void* source;
    Place place;
};

struct GroupProduct;

/// Registers that an asynchronous product owns until it is waited for.
struct BusyRegisters {
    const void* begin;
    const void* end;
    const GroupProduct* product;
    bool is_only_read;
};

struct BulkLoad {
    TensorMap map;
    u32 destination, slot, thread;
    int32_t coordinates[5];
    Place place;
    /// The same box goes to blocks of lower rank too: it is read once for all of them.
    bool is_copy;
    /// Issued before the thread knew that the launches before are over.
    bool is_early;
};

struct BulkStore {
    TensorMap map;
    u32 source, thread, clock;
    int32_t coordinates[5];
    Place place;
    bool is_early;
};

struct Thread {
    Fibre fibre;
    dim3 index;
    /// Its block's number in the cluster.
    u32 rank = 0;
    Wait wait = Wait::None;
    Place place = nullptr;
    u32 waits_for = 0;
    u32 parity = 0;
    u32 accesses = 0;
    /// Its warp's clock at each fence.proxy.async.
    std::vector<u32> fences;
    std::vector<CopyAsync> copies;
    std::vector<std::vector<CopyAsync>> copy_groups;
    std::vector<BusyRegisters> busy;
    std::vector<BulkStore> stores;
    std::vector<std::vector<BulkStore>> store_groups;
};

enum class Op : u32 { None, Syncwarp, Shuffle, Vote, MatrixLoad, MatrixStore, Product, Barrier, Group, Registers, ClusterArrive, ClusterWait };

/// What the lanes do once they have met: go on, or stay parked for something else.
enum class Next { GoOn, Stay };

/// Lanes of one warp on their way into one instruction.
struct Meeting {
    using Act = Next (*)(u32 warp, Meeting&, Place);
    Op op;
    u32 lanes, arrived;
    /// Where the first of them is.
    Place place;
    Act act;
    const void* operands[warp_lanes];
};

struct Warp {
    u32 ready = 0;
    u32 alive = 0;
    /// Of each of its threads, as its last setmaxnreg said, and where that was; 0 without one.
    u32 registers = 0;
    Place registers_place = nullptr;
    std::vector<Meeting> meetings;
    /// Whether it has arrived at the cluster's barrier and not waited yet, and in which phase.
    bool has_arrived = false;
    u32 arrival_phase = 0;
};

struct Barrier {
    u32 expected = 0, arrived = 0;
    std::vector<u32> warps_waiting;
    std::vector<u32> knowledge;
};

/// barrier.cluster: what those know who have arrived in this phase, and in the one before.
struct ClusterBarrier {
    u32 phase = 0;
    std::vector<u32> arriving, published;
};

/// Something that another block did in a block's shared memory: a multicast, or an arrival at mbarrier `slot` in a phase of it.
struct RemoteAccess {
    Stamp stamp;
    u32 thread;
    Place place;
    u32 slot = nobody, phase = 0;
};

/// A block of the running cluster.
struct Member {
    u32 index[3] = {0, 0, 0};
    u32 live = 0;
    Barrier barriers[16];
    /// The last one of each agent and lane, at each mbarrier.
    std::vector<RemoteAccess> remote;
};

struct Mbarrier {
    u32 address;
    u32 count, pending;
    int64_t bytes_expected;
    /// The phase now, and the last one that somebody found begun who waited.
    u32 phase, phase_seen;
    bool is_fenced;
    Stamp initialised;
    u32 initialiser;
    Place place;
    /// What those know who arrive in this phase, and who arrived in phases before.
    std::vector<u32> arriving, published;
    /// By thread: its warp's clock when it arrived in this phase, and in phases before. Lanes of one warp learn of each other by it.
    std::vector<u32> arriving_lanes, published_lanes;
};

/// One wgmma: 64 x n += 64 x 16 times 16 x n.
struct GroupProduct {
    u64 a, b;
    /// `window`: address of the block's shared memory, in which descriptors count.
    u32 n, clock, window;
    bool a_in_registers, a_transposed, b_transposed, accumulates;
    Place place;
    float* accumulators[group_warps * warp_lanes];
    u32 a_values[group_warps * warp_lanes][4];
};

/// A warpgroup: the warps that have come to its next instruction, and its products under way.
struct Group {
    u32 warps_arrived = 0, first_thread = 0;
    bool is_fenced = false;
    const void* operands[group_warps * warp_lanes] = {};
    std::vector<std::unique_ptr<GroupProduct>> open;
    std::vector<std::vector<std::unique_ptr<GroupProduct>>> committed;
    std::vector<u32> known;
};

struct Launch {
    const char* name;
    u32 grid[3];
    u32 block[3];
    u32 shared_bytes;
    u32 params_bytes;
    u32 maps_count;
    u32 regions_count;
    /// Which blocks of the grid run, counted with x fastest.
    u64 first_block, end_block;
    const void* params;
    const TensorMap* maps;
    const Region* regions;
    /// The stream that it is launched in; null by itself.
    Stream* stream;
    Config config;
};

struct Block {
    Launch launch{};
    void (*kernel)(const void* params, const TensorMap* maps) = nullptr;
    Report report{};
    Failure failure{};
    bool has_failed = false;
    /// Whether a thread of this launch has waited for the launches before it.
    bool has_waited = false;

    Fibre main;
    Stacks stacks;
    SharedMemory shared;
    GlobalMemory global;
    Clocks clocks;

    /// The blocks that run together: those of a cluster, mostly one. Threads, warps and groups count through all of them, by rank.
    std::vector<Member> members;
    u32 threads_count = 0, block_threads = 0, running = 0, live = 0;
    /// Blocks of the grid up to the end of the running cluster.
    u64 blocks_begun = 0;
    u64 random = 1;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    ClusterBarrier cluster_barrier;
    std::vector<Mbarrier> mbarriers;
    std::vector<Group> groups;
    std::deque<BulkLoad> loads;

    bool checks() const { return launch.config.checks != 0; }
    bool is_late() const { return launch.config.mode == static_cast<u32>(Mode::Late); }
    Thread& self() { return threads[running]; }
    u32 warp_of(u32 thread) const { return thread / warp_lanes; }
    bool is_last_cluster() const { return blocks_begun >= launch.end_block; }
    u32 cluster_blocks() const { return static_cast<u32>(members.size()); }
    Member& member_of_warp(u32 warp) { return members[threads[warp * warp_lanes].rank]; }
};

/// The launch that runs on this operating system thread; none outside of one.
extern constinit thread_local Block* block;

/// Runs every block of the launch. True if no failure ended it.
bool run(Block& state);

/// Parks the running thread and goes on elsewhere; comes back when something wakes it.
void park(Wait wait, Place place);
void wake(u32 thread);
void wake_lanes(u32 warp, u32 lanes);
u64 draw();

/// The running lane joins its warp in `op`. The last lane runs `act` for all. `lanes`: who has to come.
void meet(Op op, u32 lanes, const void* operand, Place place, Meeting::Act act);
/// The running thread leaves the kernel: its warp need not wait for it.
void leave_warp();
/// Fails where only some warps of a warpgroup of the block have executed setmaxnreg, or not to the same number.
void check_registers_of_groups(u32 rank);
/// A thread has left: those at __syncthreads, or at the cluster's barrier, may be all that are left.
void barrier_after_exit();
void cluster_barrier_after_exit();

/// Does one of the bulk loads under way.
void do_bulk_load(size_t index);
/// All threads of a block have left: nothing asynchronous may be under way, and nothing from other blocks that it has not waited for.
void check_finished_block(u32 rank);
/// Fails where a block has left whose shared memory is to be reached.
void check_present(u32 rank, Place place);
/// The last thread of a launch has left: one that overlaps has to have waited.
void check_waited();
/// Remembers what the running thread did in another block's shared memory.
void remember_remote(u32 rank, const RemoteAccess& access);
/// Counts an access of the running thread, which now and then lets others run; one that never meets anybody ends the launch.
void count_access(Place place);
/// Reports an access that falls into registers of a product in flight.
void check_registers(const void* address, u32 bytes, bool is_write, Place place);

}  // namespace emu
