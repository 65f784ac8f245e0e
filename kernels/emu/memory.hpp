// Which memory an address belongs to, and whether an access to it is allowed.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "clocks.hpp"
#include "types.hpp"

namespace emu {

/// A buffer in global memory that the kernel may touch (plain C layout).
struct Region {
    u64 address;
    u64 bytes;
};

/// How an access behaves, beside its place and size.
struct Manner {
    bool is_write = false;
    bool is_atomic = false;
    bool is_async_proxy = false;
    /// The bytes arrive later: nobody may touch them until they have.
    bool is_in_flight = false;
    /// It may reach the shared memory of another block of the cluster.
    bool is_remote = false;
    /// Who issued it did not know then that the launches before are over; what is done later knows no more.
    bool is_early = false;
    /// It is an mbarrier's own instruction.
    bool is_mbarrier = false;
};

/// What is remembered of two bytes: the last write.
struct Cell {
    u32 block;
    u32 clock;
    u32 fences;
    u32 place;
    u16 agent;
    u8 lane;
    bool is_initialised : 1;
    bool is_in_flight : 1;
    bool is_generic : 1;
    bool is_atomic : 1;
    /// It holds an mbarrier.
    bool is_mbarrier : 1;
};

/// What is remembered of the last read of two bytes by one agent: of a warp, by these lanes, which nothing orders.
struct Reader {
    u32 clock;
    u32 place;
    u32 lanes;
};

constexpr u32 cell_bytes = 2;
constexpr u32 many_lanes = 0xff;

/// Shared memory of the running block, or one window for each block of a cluster, by rank: [dynamic | gap | static], and its shadow.
///
/// Addresses count through all windows, so that they are those of shared::cluster too. Cells are reset when a block first touches them, so a block costs what it uses. Elements are of two bytes or more: two
/// threads that write neighbouring single bytes are taken for a race.
class SharedMemory {
   public:
    /// What the largest architecture gives a block (sm_90: 227 KiB), and room for gaps; as much as wgmma's descriptors can name.
    static constexpr u32 window_bytes = 256 * 1024;
    /// Blocks of a cluster, as many as every device with clusters allows.
    static constexpr u32 windows_max = 8;

    SharedMemory();
    void begin_cluster(u32 blocks, u32 dynamic_bytes, u32 readers, bool checks);

    u8* base() { return arena_.get(); }
    u32 offset(const void* address) const { return static_cast<u32>(static_cast<const u8*>(address) - arena_.get()); }
    bool contains(const void* address) const {
        return static_cast<size_t>(static_cast<const u8*>(address) - arena_.get()) < arena_bytes;
    }
    static u32 rank(u32 offset) { return offset / window_bytes; }
    /// The same place in the window of `rank`.
    static u32 in_window(u32 rank, u32 offset) { return rank * window_bytes + inside(offset); }
    /// Counted from the beginning of its window, as messages name it.
    static u32 inside(u32 offset) { return offset % window_bytes; }

    /// The static variable with this tag: made at the first call of a block, the same one for its other threads.
    void* static_variable(u32 rank, const void* tag, u32 bytes, u32 align, u32 limit);

    /// Checks an access to shared memory and remembers it; ends the launch if it is wrong.
    void access(u32 offset, u32 bytes, const Actor& actor, const Stamp& stamp, Manner manner, Place place);
    void check_bounds(u32 offset, u32 bytes, u32 thread, Manner manner, Place place) const;
    void check_initialised(u32 offset, u32 bytes, u32 thread, Place place);
    /// The eight bytes hold an mbarrier from now on.
    void hold_mbarrier(u32 offset);
    /// An asynchronous write has arrived: from now on it is an ordinary write by `stamp`.
    void land(u32 offset, u32 bytes, const Stamp& stamp, bool is_generic);

   private:
    static constexpr u32 arena_bytes = windows_max * window_bytes;
    struct Static {
        const void* tag;
        u32 offset, bytes;
    };
    /// Of one block; places are counted from its beginning.
    struct Window {
        u32 static_end = 0;
        std::vector<Static> statics;
    };
    struct Unmap {
        void operator()(u8* memory) const;
    };

    void touch(u32 index);
    void check_fence(u32 index, const Actor& actor, Place place) const;
    [[noreturn]] void fail_mbarrier(u32 index, const Actor& actor, Manner manner, Place place) const;
    void read(u32 index, const Actor& actor, const Stamp& stamp, Manner manner, Place place);
    void write(u32 index, const Actor& actor, const Stamp& stamp, Manner manner, Place place);

    std::unique_ptr<u8[], Unmap> arena_;
    std::vector<Cell> cells_;
    std::vector<Reader> readers_;
    Window windows_[windows_max];
    u32 blocks_ = 0, dynamic_bytes_ = 0, readers_per_cell_ = 0, cluster_ = 0;
};

/// What is remembered of the last read of two bytes of global memory by one block.
struct GlobalReader {
    u32 block, clock, place;
    u16 agent;
    u8 lane;
};

struct GlobalCell {
    Cell write;
    GlobalReader last, elsewhere;
};

struct GlobalPage {
    u64 number;
    std::unique_ptr<GlobalCell[]> cells;
};

/// The launches of a stream that may still run when the next one begins: those from the last one on that waited for all before it. Blocks are counted
/// through all of them.
struct Stream {
    struct Past {
        std::string kernel;
        u32 last_block;
    };
    std::vector<GlobalPage> pages;
    std::vector<Past> launches;
    /// Whether there are others, of which nothing is known: they may have touched anything.
    bool is_behind_anything = false;

    u32 blocks() const { return launches.empty() ? 0 : launches.back().last_block; }
    bool is_empty() const { return launches.empty() && !is_behind_anything; }
    /// All of them are over.
    void finish();
};

/// The shadow of global memory for one launch: bounds, races within a block and between blocks, and the order after the launches before.
///
/// Blocks, or clusters of blocks, run one after another, so an order between them exists only in time: any two accesses of different ones to the same
/// bytes, one of them a write and not both atomic, are a race. Of several readers the last of the cluster and one of another are kept.
///
/// Launches too run one after another here. One that overlaps keeps the cells of those before it in its stream: a thread that does not know yet that these are over may not
/// write what they touched, nor read what they wrote.
class GlobalMemory {
   public:
    /// `stream`: null for a launch by itself. It is taken up to the end of the launch.
    void begin_launch(const Region* regions, u32 count, bool checks, Stream* stream, bool overlaps);
    void end_launch(const char* kernel);
    void begin_cluster() { block_++; }
    void access(const void* address, u32 bytes, const Actor& actor, Manner manner, Place place);
    /// Whether bounds are known at all, and the bytes lie in one buffer.
    bool is_allowed(const void* address, u64 bytes) const;
    void check_bounds(const void* address, u64 bytes, u32 thread, bool is_write, Place place) const;
    /// Whether launches before this one may still run, until one of its threads waits for them.
    bool has_launches_before() const { return overlaps_ && !stream_->is_empty(); }
    /// Of this launch, with launches before it; null where there was none.
    Place first_access() const { return first_access_; }

   private:
    static constexpr u64 page_cells = 2048;

    GlobalCell& cell(u64 index);
    void read(GlobalCell& cell, const Actor& actor, Manner manner, u64 address, Place place);
    void write(GlobalCell& cell, const Actor& actor, Manner manner, u64 address, Place place);
    void check_readers(const GlobalCell& cell, const Actor& actor, Manner manner, u64 address, Place place) const;
    /// Of a launch before this one.
    bool is_past(u32 block) const { return block <= blocks_before_; }
    size_t nearest_region(u64 address) const;
    /// How a message names it.
    struct Where {
        char text[64];
    };
    Where where(u64 address) const;
    /// An access of another block of the launch, counted from 1, or of another cluster; and what it did.
    struct Other {
        u32 block, place;
        Stamp stamp;
        const char* verb;
    };
    [[noreturn]] void fail_race(const Actor& actor, Manner manner, u64 address, const Stamp& other, const char* earlier, Place place, u32 other_place) const;
    [[noreturn]] void fail_between_blocks(const Actor& actor, Manner manner, u64 address, const Other& other, Place place) const;
    [[noreturn]] void fail_early(const Actor& actor, Manner manner, u64 address, u32 block, const char* earlier, Place place, u32 other_place) const;

    std::vector<Region> regions_;
    std::vector<GlobalPage> pages_;
    mutable size_t last_region_ = 0;
    size_t last_page_ = 0;
    u32 block_ = 0, blocks_before_ = 0;
    bool checks_ = false, overlaps_ = false;
    Stream* stream_ = nullptr;
    Place first_access_ = nullptr;
};

/// Places fit into 32 bits as distances from a function of the emulator.
u32 pack(Place place);
Place unpack(u32 packed);

}  // namespace emu
