// The shadow of shared and global memory: bounds, first use, and the order of accesses.
#include "memory.hpp"

#include <sys/mman.h>

#include <bit>
#include <cstdio>
#include <cstring>
#include <new>

#include "block.hpp"

namespace emu {

/// A clock that nobody reaches.
constexpr u32 never = 0xffffffffu;

u32 pack(Place place) {
    return static_cast<u32>(reinterpret_cast<uintptr_t>(place) - reinterpret_cast<uintptr_t>(&pack));
}

Place unpack(u32 packed) {
    const auto distance = static_cast<int32_t>(packed);
    return reinterpret_cast<Place>(reinterpret_cast<uintptr_t>(&pack) + static_cast<intptr_t>(distance));
}

namespace {

struct AgentName {
    char text[64];
};

/// Numbers count within the block; of a cluster's blocks, the rank is told too.
AgentName name(const Stamp& stamp) {
    AgentName result;
    const Clocks& clocks = block->clocks;
    if (stamp.agent >= clocks.readers()) {
        std::snprintf(result.text, sizeof result.text, "a bulk copy to mbarrier %u", stamp.agent - clocks.readers());
        return result;
    }
    const u32 blocks = block->cluster_blocks(), warps = static_cast<u32>(block->warps.size()) / blocks;
    const u32 slot = clocks.reader_slot(stamp.agent), bulk = clocks.readers_of_block() - warps;
    u32 rank = 0;
    while (clocks.reader(rank, slot) != stamp.agent) rank++;
    char of_block[24] = "";
    if (blocks > 1) std::snprintf(of_block, sizeof of_block, " of block rank %u", rank);
    if (slot >= bulk)
        std::snprintf(result.text, sizeof result.text, "a bulk store of warp %u%s", slot - bulk, of_block);
    else if (slot >= warps)
        std::snprintf(result.text, sizeof result.text, "the tensor core of warpgroup %u%s", slot - warps, of_block);
    else if (stamp.lane == many_lanes)
        std::snprintf(result.text, sizeof result.text, "several lanes of warp %u%s", slot, of_block);
    else
        std::snprintf(result.text, sizeof result.text, "warp %u lane %u%s", slot, stamp.lane, of_block);
    return result;
}

u32 thread_of(const Stamp& stamp) {
    if (!block->clocks.is_warp(stamp.agent)) return nobody;
    return stamp.agent * warp_lanes + (stamp.lane == many_lanes ? 0 : stamp.lane);
}

Stamp stamp_of(const Cell& cell) { return {cell.agent, cell.lane, cell.clock}; }

Fault fault(Kind kind, const Actor& actor, Place place, const Stamp& other, u32 other_place) {
    return {kind, actor.thread, place, thread_of(other), unpack(other_place)};
}

const char* verb(Manner manner) {
    if (manner.is_in_flight) return "asynchronous write";
    if (manner.is_atomic) return "atomic access";
    return manner.is_write ? "write" : "read";
}

}  // namespace

// ---- shared memory

void SharedMemory::Unmap::operator()(u8* memory) const { munmap(memory, arena_bytes); }

SharedMemory::SharedMemory() {
    void* mapped = mmap(nullptr, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    arena_.reset(static_cast<u8*>(mapped));
}

void SharedMemory::begin_cluster(u32 blocks, u32 dynamic_bytes, u32 readers, bool checks) {
    for (u32 rank = 0; rank < blocks; rank++) {
        Window& window = windows_[rank];
        // 0xff in every byte: a NaN as bf16 and as float, and an index far out of bounds.
        std::memset(arena_.get() + rank * window_bytes, 0xff, std::max(dynamic_bytes, window.static_end));
        window.static_end = (dynamic_bytes + 127) / 128 * 128 + 128;
        window.statics.clear();
    }
    dynamic_bytes_ = dynamic_bytes;
    blocks_ = blocks;
    cluster_++;
    if (!checks) return;
    const size_t cells = size_t{blocks} * window_bytes / cell_bytes;
    if (cells_.size() < cells) cells_.resize(cells);
    readers_per_cell_ = readers;
    if (readers_.size() < cells_.size() * readers) readers_.resize(cells_.size() * readers);
}

void* SharedMemory::static_variable(u32 rank, const void* tag, u32 bytes, u32 align, u32 limit) {
    Window& window = windows_[rank];
    u8* const base = arena_.get() + rank * window_bytes;
    u32 used = dynamic_bytes_;
    for (const Static& variable : window.statics) {
        if (variable.tag == tag) return base + variable.offset;
        used += variable.bytes;
    }
    const u32 offset = (window.static_end + align - 1) / align * align;
    // 16 bytes of nothing behind each variable, so that running over its end is seen.
    if (used + bytes > limit || offset + bytes + 16 > window_bytes)
        fail({Kind::Launch, block->running, nullptr}, "%u bytes of shared memory wanted, %u are allowed", used + bytes, limit);
    window.static_end = offset + bytes + 16;
    std::memset(base + offset, 0xff, bytes + 16);
    window.statics.push_back({tag, offset, bytes});
    return base + offset;
}

void SharedMemory::check_bounds(u32 offset, u32 bytes, u32 thread, Manner manner, Place place) const {
    const char* verb = manner.is_write ? "write" : "read";
    const u32 at = inside(offset), of = rank(offset);
    if (!manner.is_remote && of != block->threads[thread].rank) {
        fail({Kind::OutOfBounds, thread, place}, "%s of %u bytes at shared+%u of block rank %u: this instruction reaches its own block only", verb,
             bytes, at, of);
    }
    if (of >= blocks_) fail({Kind::OutOfBounds, thread, place}, "%s of %u bytes at block rank %u of a cluster of %u", verb, bytes, of, blocks_);
    if (u64{at} + bytes <= dynamic_bytes_) return;
    const Window& window = windows_[of];
    for (const Static& variable : window.statics)
        if (at >= variable.offset && at + bytes <= variable.offset + variable.bytes) return;
    fail({Kind::OutOfBounds, thread, place}, "%s of %u bytes at shared+%u: %u bytes of dynamic shared memory, %zu static variables", verb, bytes,
         at, dynamic_bytes_, window.statics.size());
}

void SharedMemory::access(u32 offset, u32 bytes, const Actor& actor, const Stamp& stamp, Manner manner, Place place) {
    check_bounds(offset, bytes, actor.thread, manner, place);
    for (u32 i = offset / cell_bytes; i <= (offset + bytes - 1) / cell_bytes; i++) {
        touch(i);
        if (cells_[i].is_mbarrier && !manner.is_mbarrier) fail_mbarrier(i, actor, manner, place);
        if (manner.is_write)
            write(i, actor, stamp, manner, place);
        else
            read(i, actor, stamp, manner, place);
    }
}

void SharedMemory::fail_mbarrier(u32 index, const Actor& actor, Manner manner, Place place) const {
    const Cell& cell = cells_[index];
    fail(fault(Kind::Barrier, actor, place, stamp_of(cell), cell.place), "%s of shared+%u, which an mbarrier holds", verb(manner), inside(index * cell_bytes));
}

void SharedMemory::touch(u32 index) {
    Cell& cell = cells_[index];
    if (cell.block == cluster_) return;
    cell = Cell{};
    cell.block = cluster_;
    std::fill_n(readers_.begin() + size_t{index} * readers_per_cell_, readers_per_cell_, Reader{});
}

void SharedMemory::check_initialised(u32 offset, u32 bytes, u32 thread, Place place) {
    check_bounds(offset, bytes, thread, Manner{.is_write = true}, place);
    for (u32 i = offset / cell_bytes; i < (offset + bytes) / cell_bytes; i++) {
        touch(i);
        if (!cells_[i].is_initialised)
            fail({Kind::Uninitialised, thread, place}, "read of shared+%u, which nothing has written", inside(i * cell_bytes));
    }
}

void SharedMemory::read(u32 index, const Actor& actor, const Stamp& stamp, Manner manner, Place place) {
    const Cell& cell = cells_[index];
    const Stamp writer = stamp_of(cell);
    if (cell.is_in_flight) {
        fail(fault(Kind::InFlight, actor, place, writer, cell.place), "read of shared+%u, where a copy issued by %s is in flight",
             inside(index * cell_bytes), name(writer).text);
    }
    if (!cell.is_initialised) {
        fail({Kind::Uninitialised, actor.thread, place}, "read of shared+%u, which nothing has written", inside(index * cell_bytes));
    }
    if (!actor.is_ordered_after(writer)) {
        fail(fault(Kind::Race, actor, place, writer, cell.place), "%s of shared+%u by %s is not ordered after its write by %s",
             verb(manner), inside(index * cell_bytes), name(actor.stamp).text, name(writer).text);
    }
    if (manner.is_async_proxy && cell.is_generic) check_fence(index, actor, place);
    Reader& reader = readers_[size_t{index} * readers_per_cell_ + block->clocks.reader_slot(stamp.agent)];
    const u32 own = 1u << stamp.lane;
    const bool is_one_of_many = reader.clock != 0 && stamp.agent == actor.stamp.agent && !actor.is_ordered_after(stamp.agent, reader.lanes, reader.clock);
    reader = {stamp.clock, pack(place), is_one_of_many ? reader.lanes | own : own};
}

/// Of a cell that a thread has written: that it executed a fence since, and before this.
void SharedMemory::check_fence(u32 index, const Actor& actor, Place place) const {
    const Cell& cell = cells_[index];
    const Stamp writer = stamp_of(cell);
    const std::vector<u32>& fences = block->threads[thread_of(writer)].fences;
    if (fences.size() > cell.fences && actor.is_ordered_after({writer.agent, writer.lane, fences[cell.fences]})) return;
    fail(fault(Kind::Fence, actor, place, writer, cell.place), "shared+%u is read by the asynchronous proxy; %s wrote it and %s", inside(index * cell_bytes),
         name(writer).text, fences.size() > cell.fences ? "nothing orders this after its fence.proxy.async" : "has not executed fence.proxy.async since");
}

void SharedMemory::hold_mbarrier(u32 offset) {
    for (u32 i = offset / cell_bytes; i < (offset + 8) / cell_bytes; i++) cells_[i].is_mbarrier = true;
}

void SharedMemory::write(u32 index, const Actor& actor, const Stamp& stamp, Manner manner, Place place) {
    Cell& cell = cells_[index];
    const Stamp writer = stamp_of(cell);
    if (cell.is_in_flight) {
        fail(fault(Kind::InFlight, actor, place, writer, cell.place), "%s of shared+%u, where a copy issued by %s is in flight",
             verb(manner), inside(index * cell_bytes), name(writer).text);
    }
    const bool both_atomic = manner.is_atomic && cell.is_atomic;
    if (cell.clock != 0 && !both_atomic && !actor.is_ordered_after(writer)) {
        fail(fault(Kind::Race, actor, place, writer, cell.place), "%s of shared+%u by %s is not ordered after its write by %s",
             verb(manner), inside(index * cell_bytes), name(actor.stamp).text, name(writer).text);
    }
    const u32 of = rank(index * cell_bytes);
    for (u32 slot = 0; slot < readers_per_cell_; slot++) {
        const Reader& reader = readers_[size_t{index} * readers_per_cell_ + slot];
        if (reader.clock == 0) continue;
        const u32 agent = block->clocks.reader(of, slot);
        if (actor.is_ordered_after(agent, reader.lanes, reader.clock)) continue;
        const u32 lane = std::has_single_bit(reader.lanes) ? static_cast<u32>(__builtin_ctz(reader.lanes)) : many_lanes;
        const Stamp earlier = {agent, lane, reader.clock};
        fail(fault(Kind::Race, actor, place, earlier, reader.place), "%s of shared+%u by %s is not ordered after its read by %s",
             verb(manner), inside(index * cell_bytes), name(actor.stamp).text, name(earlier).text);
    }
    cell.clock = stamp.clock;
    cell.agent = static_cast<u16>(stamp.agent);
    cell.lane = static_cast<u8>(stamp.lane);
    cell.place = pack(place);
    cell.fences = static_cast<u32>(block->threads[actor.thread].fences.size());
    cell.is_initialised = true;
    cell.is_in_flight = manner.is_in_flight;
    cell.is_generic = !manner.is_async_proxy;
    cell.is_atomic = manner.is_atomic;
}

void SharedMemory::land(u32 offset, u32 bytes, const Stamp& stamp, bool is_generic) {
    for (u32 i = offset / cell_bytes; i < (offset + bytes) / cell_bytes; i++) {
        Cell& cell = cells_[i];
        cell.is_in_flight = false;
        cell.is_generic = is_generic;
        cell.clock = stamp.clock;
        cell.agent = static_cast<u16>(stamp.agent);
        cell.lane = static_cast<u8>(stamp.lane);
        if (is_generic) cell.fences = static_cast<u32>(block->threads[thread_of(stamp)].fences.size());
    }
}

// ---- global memory

void Stream::finish() {
    pages.clear();
    launches.clear();
    is_behind_anything = false;
}

void GlobalMemory::begin_launch(const Region* regions, u32 count, bool checks, Stream* stream, bool overlaps) {
    regions_.assign(regions, regions + count);
    pages_.clear();
    last_region_ = last_page_ = 0;
    checks_ = checks;
    stream_ = stream;
    overlaps_ = checks && overlaps && stream != nullptr;
    first_access_ = nullptr;
    if (stream != nullptr && !overlaps_) stream->finish();
    if (overlaps_) pages_.swap(stream->pages);
    block_ = blocks_before_ = overlaps_ ? stream->blocks() : 0;
}

void GlobalMemory::end_launch(const char* kernel) {
    if (stream_ == nullptr || !checks_) return;
    stream_->pages = std::move(pages_);
    pages_.clear();
    stream_->launches.push_back({kernel, block_});
}

bool GlobalMemory::is_allowed(const void* address, u64 bytes) const {
    if (regions_.empty()) return true;
    const u64 first = reinterpret_cast<u64>(address);
    const auto holds = [&](const Region& r) { return first >= r.address && bytes <= r.bytes && first - r.address <= r.bytes - bytes; };
    if (holds(regions_[last_region_])) return true;
    for (size_t i = 0; i < regions_.size(); i++) {
        if (!holds(regions_[i])) continue;
        last_region_ = i;
        return true;
    }
    return false;
}

/// The nearest buffer that begins before the address; their number if there is none.
size_t GlobalMemory::nearest_region(u64 address) const {
    size_t nearest = regions_.size();
    for (size_t i = 0; i < regions_.size(); i++)
        if (regions_[i].address <= address && (nearest == regions_.size() || regions_[i].address > regions_[nearest].address)) nearest = i;
    return nearest;
}

void GlobalMemory::check_bounds(const void* address, u64 bytes, u32 thread, bool is_write, Place place) const {
    if (is_allowed(address, bytes)) return;
    // That buffer was overrun.
    const u64 first = reinterpret_cast<u64>(address);
    const size_t nearest = nearest_region(first);
    if (nearest == regions_.size()) {
        fail({Kind::OutOfBounds, thread, place}, "%s of %llu bytes of global memory before every buffer", is_write ? "write" : "read",
             static_cast<unsigned long long>(bytes));
    }
    fail({Kind::OutOfBounds, thread, place}, "%s of %llu bytes of global memory at byte %llu of buffer %zu, which has %llu",
         is_write ? "write" : "read", static_cast<unsigned long long>(bytes),
         static_cast<unsigned long long>(first - regions_[nearest].address), nearest,
         static_cast<unsigned long long>(regions_[nearest].bytes));
}

GlobalCell& GlobalMemory::cell(u64 index) {
    const u64 number = index / page_cells;
    if (last_page_ >= pages_.size() || pages_[last_page_].number != number) {
        const auto below = [](const GlobalPage& page, u64 wanted) { return page.number < wanted; };
        const auto found = std::lower_bound(pages_.begin(), pages_.end(), number, below);
        last_page_ = static_cast<size_t>(found - pages_.begin());
        if (found == pages_.end() || found->number != number)
            pages_.insert(found, GlobalPage{number, std::make_unique<GlobalCell[]>(page_cells)});
    }
    return pages_[last_page_].cells[index % page_cells];
}

void GlobalMemory::access(const void* address, u32 bytes, const Actor& actor, Manner manner, Place place) {
    check_bounds(address, bytes, actor.thread, manner.is_write, place);
    Report& report = block->report;
    (manner.is_write ? report.global_bytes_written : report.global_bytes_read) += bytes;
    if (!checks_) return;
    const u64 first = reinterpret_cast<u64>(address);
    if (overlaps_) {
        if (first_access_ == nullptr) first_access_ = place;
        manner.is_early |= actor.known[block->clocks.launches_agent()] == 0;
        if (manner.is_early && stream_->is_behind_anything) fail_early(actor, manner, first, 0, "touched", place, 0);
    }
    for (u64 i = first / cell_bytes; i <= (first + bytes - 1) / cell_bytes; i++) {
        GlobalCell& touched = cell(i);
        if (manner.is_write)
            write(touched, actor, manner, i * cell_bytes, place);
        else
            read(touched, actor, manner, i * cell_bytes, place);
    }
}

GlobalMemory::Where GlobalMemory::where(u64 address) const {
    Where result = {"global memory"};
    if (const size_t region = nearest_region(address); region != regions_.size())
        std::snprintf(result.text, sizeof result.text, "byte %llu of buffer %zu", static_cast<unsigned long long>(address - regions_[region].address), region);
    return result;
}

/// Two accesses of one block, or of one cluster.
void GlobalMemory::fail_race(const Actor& actor, Manner manner, u64 address, const Stamp& other, const char* earlier, Place place, u32 other_place) const {
    fail(fault(Kind::Race, actor, place, other, other_place), "%s of %s by %s is not ordered after its %s by %s", verb(manner), where(address).text,
         name(actor.stamp).text, earlier, name(other).text);
}

void GlobalMemory::fail_between_blocks(const Actor& actor, Manner manner, u64 address, const Other& other, Place place) const {
    const Launch& launch = block->launch;
    const u64 cluster = block->cluster_blocks(), width = launch.grid[0], height = launch.grid[1];
    const u64 first = launch.first_block + (other.block - blocks_before_ - 1) * cluster;
    fail({Kind::Race, actor.thread, place, nobody, unpack(other.place)}, "%s of %s, which %s of %s (%llu, %llu, %llu) has %s: nothing orders the two",
         verb(manner), where(address).text, name(other.stamp).text, cluster > 1 ? "the cluster at" : "block", static_cast<unsigned long long>(first % width),
         static_cast<unsigned long long>(first / width % height), static_cast<unsigned long long>(first / (width * height)), other.verb);
}

/// `block`: counted through all launches of the stream, 0 for one of those of which nothing is known.
void GlobalMemory::fail_early(const Actor& actor, Manner manner, u64 address, u32 block, const char* earlier, Place place, u32 other_place) const {
    const Where at = where(address);
    if (block == 0) {
        fail({Kind::Overlap, actor.thread, place}, "%s of %s before the wait for the launches before, which may have %s it and still run", verb(manner),
             at.text, earlier);
    }
    const std::vector<Stream::Past>& launches = stream_->launches;
    size_t i = 0;
    while (launches[i].last_block < block) i++;
    const u32 first = i == 0 ? 0 : launches[i - 1].last_block;
    fail({Kind::Overlap, actor.thread, place, nobody, unpack(other_place)},
         "%s of %s before the wait for the launches before: %s, %zu before this one, may still run and has %s it in block %u (counted through)",
         verb(manner), at.text, launches[i].kernel.c_str(), launches.size() - i, earlier, block - first - 1);
}

void GlobalMemory::read(GlobalCell& cell, const Actor& actor, Manner manner, u64 address, Place place) {
    const Cell& write = cell.write;
    if (write.clock != 0 && is_past(write.block)) {
        if (manner.is_early) fail_early(actor, manner, address, write.block, "written", place, write.place);
    } else if (write.clock != 0) {
        if (write.block != block_) fail_between_blocks(actor, manner, address, {write.block, write.place, stamp_of(write), "written"}, place);
        if (!actor.is_ordered_after(stamp_of(write))) fail_race(actor, manner, address, stamp_of(write), "write", place, write.place);
    }
    if (cell.last.clock != 0 && cell.last.block != block_) cell.elsewhere = cell.last;
    cell.last = {block_, actor.stamp.clock, pack(place), static_cast<u16>(actor.stamp.agent), static_cast<u8>(actor.stamp.lane)};
}

void GlobalMemory::check_readers(const GlobalCell& cell, const Actor& actor, Manner manner, u64 address, Place place) const {
    for (const GlobalReader* reader : {&cell.elsewhere, &cell.last}) {
        if (reader->clock == 0) continue;
        if (is_past(reader->block)) {
            if (manner.is_early) fail_early(actor, manner, address, reader->block, "read", place, reader->place);
            continue;
        }
        const Stamp earlier = {reader->agent, reader->lane, reader->clock};
        if (reader->block != block_) fail_between_blocks(actor, manner, address, {reader->block, reader->place, earlier, "read"}, place);
        if (!actor.is_ordered_after(earlier)) fail_race(actor, manner, address, earlier, "read", place, reader->place);
    }
}

void GlobalMemory::write(GlobalCell& cell, const Actor& actor, Manner manner, u64 address, Place place) {
    Cell& write = cell.write;
    const bool both_atomic = manner.is_atomic && write.is_atomic;
    if (write.clock != 0 && is_past(write.block)) {
        if (manner.is_early) fail_early(actor, manner, address, write.block, "written", place, write.place);
    } else if (write.clock != 0 && !both_atomic) {
        if (write.block != block_) fail_between_blocks(actor, manner, address, {write.block, write.place, stamp_of(write), "written"}, place);
        if (!actor.is_ordered_after(stamp_of(write))) fail_race(actor, manner, address, stamp_of(write), "write", place, write.place);
    }
    check_readers(cell, actor, manner, address, place);
    // Of a bulk store it is learnt that it has read shared memory, never that it has written.
    const Stamp stamp = manner.is_async_proxy ? Stamp{block->clocks.bulk_agent(actor.stamp.agent), 0, never} : actor.stamp;
    write.block = block_;
    write.clock = stamp.clock;
    write.agent = static_cast<u16>(stamp.agent);
    write.lane = static_cast<u8>(stamp.lane);
    write.place = pack(place);
    write.is_atomic = manner.is_atomic;
}

}  // namespace emu
