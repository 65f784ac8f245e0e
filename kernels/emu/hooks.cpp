// Plain loads and stores. Kernels are compiled with -fsanitize=thread, which calls these before each access, and with
// -fsanitize=alignment, which calls one where a pointer is less aligned than its type; they are linked in place of the sanitizers' own runtimes.
#include "block.hpp"

namespace emu {

namespace {

/// A thread that makes so many accesses without meeting anybody lets others run; `spins_max` times in a row, it is stuck.
constexpr u32 accesses_in_a_row_max = 1u << 14;
constexpr u32 spins_max = 64;

}  // namespace

void count_access(Place place) {
    Thread& thread = block->self();
    if ((++thread.accesses & (accesses_in_a_row_max - 1)) != 0) return;
    if (thread.accesses / accesses_in_a_row_max >= spins_max) {
        fail({Kind::Deadlock, block->running, place}, "a thread made %u accesses without meeting a barrier: it spins for ever",
             thread.accesses);
    }
    wake(block->running);
    park(Wait::None, place);
}

namespace {

__attribute__((noinline)) void check(const void* address, u32 bytes, bool is_write, bool is_aligned, Place place) {
    Block& b = *block;
    Thread& thread = b.self();
    count_access(place);
    const bool is_shared = b.shared.contains(address);
    if (!is_shared && b.stacks.contains(address)) {
        if (!thread.busy.empty()) check_registers(address, bytes, is_write, place);
        return;
    }
    if (is_aligned && reinterpret_cast<uintptr_t>(address) % bytes != 0) {
        fail({Kind::Misaligned, b.running, place}, "%s of %u bytes at an address that is %zu bytes past a multiple of %u",
             is_write ? "write" : "read", bytes, reinterpret_cast<uintptr_t>(address) % bytes, bytes);
    }
    const Manner manner{.is_write = is_write};
    const Actor actor = b.clocks.actor(b.running);
    if (is_shared)
        b.shared.access(b.shared.offset(address), bytes, actor, actor.stamp, manner, place);
    else
        b.global.access(address, bytes, actor, manner, place);
}

/// The alignment that the type has; the compiler splits a vector's load into its members', so the accesses do not show it.
void fail_alignment(u8 alignment_log2, const void* address, Place place) {
    if (block == nullptr) return;
    const size_t alignment = size_t{1} << alignment_log2;
    fail({Kind::Misaligned, block->running, place}, "a pointer to a type of alignment %zu is %zu bytes past a multiple of that", alignment,
         reinterpret_cast<uintptr_t>(address) % alignment);
}

inline void hook(const void* address, u32 bytes, bool is_write, bool is_aligned, Place place) {
    if (block != nullptr && block->checks()) check(address, bytes, is_write, is_aligned, place);
}

}  // namespace
}  // namespace emu

#define HOOKS(bytes)                                                                                                              \
    void __tsan_read##bytes(void* address) { emu::hook(address, bytes, false, true, __builtin_return_address(0)); }               \
    void __tsan_write##bytes(void* address) { emu::hook(address, bytes, true, true, __builtin_return_address(0)); }               \
    void __tsan_unaligned_read##bytes(void* address) { emu::hook(address, bytes, false, false, __builtin_return_address(0)); }    \
    void __tsan_unaligned_write##bytes(void* address) { emu::hook(address, bytes, true, false, __builtin_return_address(0)); }

extern "C" {
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void* address, unsigned long bytes) {
    emu::hook(address, static_cast<emu::u32>(bytes), false, false, __builtin_return_address(0));
}
void __tsan_write_range(void* address, unsigned long bytes) {
    emu::hook(address, static_cast<emu::u32>(bytes), true, false, __builtin_return_address(0));
}

/// What the compiler tells: where, which type, its alignment as a power of two, and how it is used.
struct TypeMismatch {
    const char* file;
    emu::u32 line, column;
    const void* type;
    emu::u8 alignment_log2, use;
};
void __ubsan_handle_type_mismatch_v1(const TypeMismatch* mismatch, uintptr_t address) {
    emu::fail_alignment(mismatch->alignment_log2, reinterpret_cast<const void*>(address), __builtin_return_address(0));
}

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}
