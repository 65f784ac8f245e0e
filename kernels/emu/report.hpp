// What a run tells its caller: counts of a clean launch, or the one failure that ended it.
#pragma once
#include "types.hpp"

namespace emu {

/// What went wrong; `kernels/emu/mod.rs` repeats the numbers.
enum class Kind : u32 {
    Launch = 0,         // the launch itself cannot be done: unknown kernel, too much shared memory
    Race = 1,           // two accesses, one of them a write, and nothing orders them
    Uninitialised = 2,  // shared memory read before it was written
    OutOfBounds = 3,    // an access outside of every buffer
    Misaligned = 4,     // an address that its instruction does not accept
    Deadlock = 5,       // every thread waits
    Divergence = 6,     // lanes that have to act together do not
    Barrier = 7,        // a barrier used against its rules
    Fence = 8,          // a fence is missing between ordinary stores and the asynchronous proxy
    InFlight = 9,       // memory or registers of an asynchronous operation touched before it was waited for; a block gone that others still reach
    Instruction = 10,   // operands that the instruction does not accept
    Overlap = 11,       // an access that may come before a launch before this one, or while it runs
};

constexpr u32 nobody = 0xffffffffu;

/// The failure as it crosses to Rust (plain C layout).
struct Failure {
    u32 kind;
    u32 block[3];
    u32 thread;
    u32 other_thread;
    u64 place;
    u64 other_place;
    char text[400];
};

/// Counts of one launch (plain C layout).
struct Report {
    u64 blocks;
    u64 switches;
    u64 global_bytes_read;
    u64 global_bytes_written;
    u64 matrix_loads;
    u64 matrix_products;
    u64 bank_conflicts;
    u64 bulk_copies;
};

/// Who did it and where, and who is the other party.
struct Fault {
    Kind kind;
    u32 thread;
    Place place;
    u32 other_thread = nobody;
    Place other_place = nullptr;
};

/// Ends the launch: records the failure and leaves the block for good. Its fibres are abandoned where they stand, so a caller
/// must not hold anything that has to be destroyed.
[[noreturn]] void fail(const Fault& fault, const char* format, ...) __attribute__((format(printf, 2, 3)));

/// Source line of a place: `file:line` of the kernel, with what was inlined there; or the raw address where no tool can say.
/// Asks `addr2line`, which is started with the first place, once for each and remembers the answer.
size_t describe(u64 place, char* text, size_t bytes);

/// Whether two places are one line of the source, which the compiler may have copied; true where no tool can say.
bool is_same_line(Place first, Place second);

}  // namespace emu
