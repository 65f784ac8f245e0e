// cp.async: each thread's copies in groups; the bytes belong to nobody from issue to wait.
#include "copy_async.hpp"

#include <cstring>

#include "block.hpp"

namespace emu {

namespace {

constexpr u32 copy_bytes = 16;

void do_copy(const CopyAsync& copy) {
    u8* destination = block->shared.base() + copy.destination;
    if (copy.bytes != 0) std::memcpy(destination, copy.source, copy.bytes);
    std::memset(destination + copy.bytes, 0, copy_bytes - copy.bytes);
}

void check(const CopyAsync& copy) {
    Block& b = *block;
    if (copy.destination % copy_bytes != 0) {
        fail({Kind::Misaligned, b.running, copy.place}, "cp.async to shared+%u: a multiple of 16 is needed", copy.destination);
    }
    if (copy.bytes > copy_bytes) fail({Kind::Instruction, b.running, copy.place}, "cp.async of %u source bytes, 16 at most", copy.bytes);
    if (copy.bytes != 0 && reinterpret_cast<uintptr_t>(copy.source) % copy_bytes != 0)
        fail({Kind::Misaligned, b.running, copy.place}, "cp.async from a global address that is not a multiple of 16");
    b.shared.check_bounds(copy.destination, copy_bytes, b.running, Manner{.is_write = true}, copy.place);
    if (!b.checks()) return;
    const Actor actor = b.clocks.actor(b.running);
    if (copy.bytes != 0) b.global.access(copy.source, copy.bytes, actor, Manner{}, copy.place);
    const Manner manner{.is_write = true, .is_in_flight = true};
    b.shared.access(copy.destination, copy_bytes, actor, actor.stamp, manner, copy.place);
}

void land(const std::vector<CopyAsync>& group) {
    Block& b = *block;
    for (const CopyAsync& copy : group) {
        if (b.is_late()) do_copy(copy);
        if (b.checks()) b.shared.land(copy.destination, copy_bytes, b.clocks.actor(b.running).stamp, true);
    }
}

}  // namespace

void copy_async16(u32 destination, const void* source, u32 source_bytes) {
    const CopyAsync copy{destination, source_bytes, source, __builtin_return_address(0)};
    check(copy);
    if (!block->is_late()) do_copy(copy);
    block->self().copies.push_back(copy);
}

void copy_async_commit() {
    Thread& thread = block->self();
    thread.copy_groups.push_back(std::move(thread.copies));
    thread.copies.clear();
}

void copy_async_wait(u32 groups) {
    std::vector<std::vector<CopyAsync>>& open = block->self().copy_groups;
    const size_t landed = open.size() > groups ? open.size() - groups : 0;
    for (size_t i = 0; i < landed; i++) land(open[i]);
    open.erase(open.begin(), open.begin() + static_cast<std::ptrdiff_t>(landed));
}

u32 shared_address(const void* address) { return block->shared.offset(address); }

}  // namespace emu
