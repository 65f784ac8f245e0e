// Bulk copies by tensor map: a box of the tensor from or to shared memory, swizzled; outside of the tensor zeros are read and
// nothing is written (CUDA driver API, cuTensorMapEncodeTiled).
#include "bulk.hpp"

#include <cstring>

#include "block.hpp"

namespace emu {

u32 find_mbarrier(u32 address, u32 thread, Place place);
void count_bytes(u32 slot, int64_t bytes, u32 thread, Place place);
void end_phase_if_complete(u32 slot);

namespace {

constexpr u32 piece_bytes = 16;
/// More than any block has of shared memory.
constexpr u64 box_bytes_end = 1 << 18;

u32 box_bytes(const TensorMap& map) {
    u32 bytes = map.element_bytes;
    for (u32 d = 0; d < map.rank; d++) bytes *= map.box[d];
    return bytes;
}

/// What is wrong with the strides; null if nothing is: each holds all that lies inside of it, and is so many of the one inside of it.
const char* complaint_of_strides(const TensorMap& map) {
    u64 inside = map.element_bytes;
    for (u32 d = 0; d + 1 < map.rank; d++) {
        const u64 stride = map.strides[d];
        if (stride % 16 != 0 || stride >= u64{1} << 40) return "a stride is a multiple of 16 bytes, below 2^40";
        // A product of the two may not fit into 64 bits.
        if (stride / inside < map.sizes[d]) return "a stride is less than what lies inside of it";
        if (d > 0 && stride % inside != 0) return "a stride is no multiple of the one inside of it";
        inside = stride;
    }
    return nullptr;
}

/// What is wrong with the map; null if nothing is.
const char* complaint(const TensorMap& map, u32 rank) {
    if (map.rank != rank || rank < 1 || rank > 5) return "the instruction has another number of dimensions than the map";
    if (map.element_bytes != 2 && map.element_bytes != 4) return "elements have 2 or 4 bytes";
    if (map.address % 16 != 0) return "the tensor's address is no multiple of 16";
    const u32 swizzle = map.swizzle_bytes;
    if (swizzle != 0 && swizzle != 32 && swizzle != 64 && swizzle != 128) return "a swizzle has 0, 32, 64 or 128 bytes";
    const u32 row_bytes = map.box[0] * map.element_bytes;
    if (row_bytes % piece_bytes != 0) return "the box's inner dimension is no multiple of 16 bytes";
    if (swizzle != 0 && row_bytes > swizzle) return "the box's inner dimension is wider than the swizzle";
    for (u32 d = 0; d < rank; d++)
        if (map.box[d] == 0 || map.box[d] > 256) return "a box has 1 to 256 elements in each dimension";
    for (u32 d = 0; d < rank; d++)
        if (map.sizes[d] == 0 || map.sizes[d] > u64{1} << 32) return "a tensor has 1 to 2^32 elements in each dimension";
    u64 bytes = map.element_bytes;
    for (u32 d = 0; d < rank; d++) bytes *= map.box[d];
    if (bytes >= box_bytes_end) return "a box has more bytes than shared memory";
    return complaint_of_strides(map);
}

void check(const TensorMap& map, u32 rank, u32 address, Place place) {
    const u32 thread = block->running;
    if (const char* what = complaint(map, rank)) fail({Kind::Instruction, thread, place}, "tensor map: %s", what);
    // The pattern repeats every 8 rows: off that, the bits that are xored would not count from the box's first row.
    const u32 alignment = map.swizzle_bytes == 0 ? 128 : 8 * map.swizzle_bytes;
    if (address % alignment != 0)
        fail({Kind::Misaligned, thread, place}, "a box at shared+%u: this swizzle needs a multiple of %u", SharedMemory::inside(address),
             alignment);
    block->shared.check_bounds(address, box_bytes(map), thread, Manner{.is_write = true}, place);
}

/// Calls `each(offset in shared memory, address in the tensor, bytes of it inside of the tensor)` for every 16 bytes of the box.
template <class Each>
void for_pieces(const TensorMap& map, const int32_t* coordinates, u32 first_offset, Each each) {
    const u32 piece_elements = piece_bytes / map.element_bytes, pieces = box_bytes(map) / piece_bytes;
    for (u32 i = 0; i < pieces; i++) {
        u32 rest = i * piece_elements;
        u64 address = map.address;
        u32 inside = piece_elements;
        for (u32 d = 0; d < map.rank; d++) {
            const int64_t at = coordinates[d] + static_cast<int64_t>(rest % map.box[d]);
            rest /= map.box[d];
            const int64_t left = static_cast<int64_t>(map.sizes[d]) - at;
            if (at < 0 || left <= 0) inside = 0;
            if (d == 0) inside = static_cast<u32>(std::min<int64_t>(inside, std::max<int64_t>(left, 0)));
            address += static_cast<u64>(at) * (d == 0 ? map.element_bytes : map.strides[d - 1]);
        }
        each(swizzled(first_offset + i * piece_bytes, map.swizzle_bytes), address, inside * map.element_bytes);
    }
}

void check_global(u64 address, u32 bytes, u32 thread, Manner manner, Place place) {
    Block& b = *block;
    if (bytes == 0 || !b.checks()) return;
    b.global.access(reinterpret_cast<const void*>(address), bytes, b.clocks.actor(thread), manner, place);
}

/// Whether the running thread does not know yet that the launches before are over: a copy that it issues now may be done at once.
bool is_early() { return block->checks() && block->clocks.known(block->running)[block->clocks.launches_agent()] == 0; }

void do_store(const BulkStore& store) {
    for_pieces(store.map, store.coordinates, store.source, [&](u32 offset, u64 address, u32 bytes) {
        // Loads end at the element; of stores an H100 writes the whole piece that holds the last one, past the row's end.
        if (bytes % piece_bytes != 0) {
            fail({Kind::Instruction, store.thread, store.place},
                 "a bulk store's row of %llu elements ends within 16 bytes, and all 16 are written",
                 static_cast<unsigned long long>(store.map.sizes[0]));
        }
        check_global(address, bytes, store.thread, Manner{.is_write = true, .is_async_proxy = true, .is_early = store.is_early}, store.place);
        if (bytes != 0) std::memcpy(reinterpret_cast<void*>(address), block->shared.base() + offset, bytes);
    });
}

}  // namespace

void do_bulk_load(size_t index) {
    Block& b = *block;
    const BulkLoad load = b.loads[index];
    b.loads.erase(b.loads.begin() + static_cast<std::ptrdiff_t>(index));
    const u32 slot = load.slot, agent = b.clocks.mbarrier_agent(slot);
    for_pieces(load.map, load.coordinates, load.destination, [&](u32 offset, u64 address, u32 bytes) {
        if (!load.is_copy) check_global(address, bytes, load.thread, Manner{.is_early = load.is_early}, load.place);
        u8* target = b.shared.base() + offset;
        if (bytes != 0) std::memcpy(target, reinterpret_cast<const void*>(address), bytes);
        std::memset(target + bytes, 0, piece_bytes - bytes);
    });
    Mbarrier& barrier = b.mbarriers[slot];
    if (b.checks()) {
        const Stamp stamp{agent, 0, b.clocks.now(agent)};
        b.shared.land(load.destination, box_bytes(load.map), stamp, false);
        const u32 rank = SharedMemory::rank(load.destination);
        if (rank != b.threads[load.thread].rank) remember_remote(rank, {stamp, load.thread, load.place});
        barrier.arriving.resize(b.clocks.agents(), 0);
        barrier.arriving[agent] = b.clocks.now(agent);
        // What was asked for behind the wait for the launches before has come behind it.
        if (!load.is_early) barrier.arriving[b.clocks.launches_agent()] = 1;
        b.clocks.advance(agent);
    }
    count_bytes(slot, -static_cast<int64_t>(box_bytes(load.map)), load.thread, load.place);
    end_phase_if_complete(slot);
}

namespace {

struct LoadOperands {
    u32 destination, mbarrier;
    const TensorMap* map;
    const int32_t* coordinates;
};

/// Issues the load for one block: each block's bytes arrive when they arrive.
void issue(const LoadOperands& o, u32 block_rank, bool is_copy, Place place) {
    Block& b = *block;
    const u32 destination = SharedMemory::in_window(block_rank, o.destination), mbarrier = SharedMemory::in_window(block_rank, o.mbarrier);
    check_present(block_rank, place);
    const u32 slot = find_mbarrier(mbarrier, b.running, place);
    if (!b.mbarriers[slot].is_fenced) {
        fail({Kind::Fence, b.running, place, b.mbarriers[slot].initialiser, b.mbarriers[slot].place},
             "mbarrier at shared+%u is used by a bulk copy, and no fence.mbarrier_init followed its initialisation", SharedMemory::inside(mbarrier));
    }
    if (b.checks()) {
        const Actor actor = b.clocks.actor(b.running);
        const Manner manner{.is_write = true, .is_async_proxy = true, .is_in_flight = true, .is_remote = true};
        b.shared.access(destination, box_bytes(*o.map), actor, actor.stamp, manner, place);
    }
    BulkLoad load{*o.map, destination, slot, b.running, {}, place, is_copy, is_early()};
    std::copy_n(o.coordinates, o.map->rank, load.coordinates);
    b.loads.push_back(load);
    if (!b.is_late()) do_bulk_load(b.loads.size() - 1);
}

void check_load(const LoadOperands& o, u32 rank, Place place) {
    check(*o.map, rank, o.destination, place);
    block->shared.check_bounds(o.mbarrier, 8, block->running, Manner{}, place);
    block->report.bulk_copies++;
}

}  // namespace

void bulk_load(u32 destination, const TensorMap* map, u32 mbarrier, const int32_t* coordinates, u32 rank) {
    const Place place = __builtin_return_address(0);
    const LoadOperands operands{destination, mbarrier, map, coordinates};
    check_load(operands, rank, place);
    issue(operands, block->self().rank, false, place);
}

void bulk_load_multicast(u32 destination, const TensorMap* map, u32 mbarrier, u32 blocks, const int32_t* coordinates, u32 rank) {
    const Place place = __builtin_return_address(0);
    const LoadOperands operands{destination, mbarrier, map, coordinates};
    check_load(operands, rank, place);
    if (blocks == 0 || blocks >> block->cluster_blocks() != 0)
        fail({Kind::Instruction, block->running, place}, "multicast to blocks %#x of a cluster of %u", blocks, block->cluster_blocks());
    bool is_copy = false;
    Clocks::for_lanes(blocks, [&](u32 block_rank) {
        issue(operands, block_rank, is_copy, place);
        is_copy = true;
    });
}

void bulk_store(u32 source, const TensorMap* map, const int32_t* coordinates, u32 rank) {
    Block& b = *block;
    const Place place = __builtin_return_address(0);
    check(*map, rank, source, place);
    BulkStore store{*map, source, b.running, 0, {}, place, is_early()};
    std::copy_n(coordinates, rank, store.coordinates);
    if (b.checks()) {
        const u32 agent = b.clocks.bulk_agent(b.warp_of(b.running));
        store.clock = b.clocks.now(agent);
        b.shared.access(source, box_bytes(*map), b.clocks.actor(b.running), {agent, 0, store.clock}, Manner{.is_async_proxy = true}, place);
        b.clocks.advance(agent);
    }
    b.report.bulk_copies++;
    if (!b.is_late()) do_store(store);
    b.self().stores.push_back(store);
}

void bulk_commit() {
    Thread& thread = block->self();
    thread.store_groups.push_back(std::move(thread.stores));
    thread.stores.clear();
}

void bulk_wait(u32 groups) {
    Block& b = *block;
    std::vector<std::vector<BulkStore>>& open = b.self().store_groups;
    const size_t landed = open.size() > groups ? open.size() - groups : 0;
    for (size_t i = 0; i < landed; i++) {
        for (const BulkStore& store : open[i]) {
            if (b.is_late()) do_store(store);
            if (!b.checks()) continue;
            u32& known = b.clocks.known(b.running)[b.clocks.bulk_agent(b.warp_of(b.running))];
            known = std::max(known, store.clock);
        }
    }
    open.erase(open.begin(), open.begin() + static_cast<std::ptrdiff_t>(landed));
}

namespace {

/// What other blocks did here has to lie before this block's end: one of its threads has to know of it, or to have waited for the phase of the arrival.
void check_remote(u32 rank) {
    Block& b = *block;
    if (!b.checks()) return;
    for (const RemoteAccess& access : b.members[rank].remote) {
        bool is_known = access.slot != nobody && b.mbarriers[access.slot].phase_seen > access.phase;
        for (u32 t = rank * b.block_threads; t < (rank + 1) * b.block_threads && !is_known; t++)
            is_known = b.clocks.known(t)[access.stamp.agent] >= access.stamp.clock;
        if (is_known) continue;
        fail({Kind::InFlight, access.thread, access.place, b.running, b.threads[b.running].place},
             "block rank %u leaves the kernel, and nothing orders that after this access to its shared memory", rank);
    }
}

}  // namespace

void check_finished_block(u32 rank) {
    Block& b = *block;
    for (const BulkLoad& load : b.loads) {
        if (SharedMemory::rank(load.destination) != rank) continue;
        fail({Kind::InFlight, load.thread, load.place}, "the block has ended, and a bulk load to shared+%u is still under way",
             SharedMemory::inside(load.destination));
    }
    check_remote(rank);
    check_registers_of_groups(rank);
    for (u32 t = rank * b.block_threads; t < (rank + 1) * b.block_threads; t++) {
        const Thread& thread = b.threads[t];
        if (thread.stores.empty() && thread.store_groups.empty()) continue;
        if (!thread.stores.empty() || !thread.store_groups.front().empty()) {
            const BulkStore& store = thread.stores.empty() ? thread.store_groups.front().front() : thread.stores.front();
            fail({Kind::InFlight, t, store.place}, "the block has ended, and a bulk store from shared+%u was never waited for",
                 SharedMemory::inside(store.source));
        }
    }
}

}  // namespace emu
