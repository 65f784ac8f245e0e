// The stack switch for x86-64 (System V) and aarch64 (AAPCS64), and the stacks.
#include "fibre.hpp"

#include <sys/mman.h>
#include <unistd.h>

extern "C" void lighterage_emu_switch(void** save, void* to);

#if defined(__x86_64__)
// Callee-saved: rbp, rbx, r12 to r15; the rest the caller has saved already.
asm(R"(
.text
.globl lighterage_emu_switch
.type lighterage_emu_switch, @function
lighterage_emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size lighterage_emu_switch, . - lighterage_emu_switch
)");
#elif defined(__aarch64__)
// Callee-saved: x19 to x28, the frame pointer x29, the link register x30, and the low halves of v8 to v15.
asm(R"(
.text
.globl lighterage_emu_switch
.type lighterage_emu_switch, %function
lighterage_emu_switch:
    stp x29, x30, [sp, #-160]!
    stp x19, x20, [sp, #16]
    stp x21, x22, [sp, #32]
    stp x23, x24, [sp, #48]
    stp x25, x26, [sp, #64]
    stp x27, x28, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #16]
    ldp x21, x22, [sp, #32]
    ldp x23, x24, [sp, #48]
    ldp x25, x26, [sp, #64]
    ldp x27, x28, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    ldp x29, x30, [sp], #160
    ret
.size lighterage_emu_switch, . - lighterage_emu_switch
)");
#else
#error "the emulator has no fibre switch for this architecture: add one beside those above"
#endif

namespace emu {

void switch_fibre(Fibre& from, const Fibre& to) { lighterage_emu_switch(&from.stack_pointer, to.stack_pointer); }

Stacks::~Stacks() { release(); }

void Stacks::release() {
    if (base_ != nullptr) munmap(base_, count_ * stack_bytes);
    base_ = nullptr;
    count_ = 0;
}

bool Stacks::reserve(size_t count) {
    if (count <= count_) return true;
    release();
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* mapped = mmap(nullptr, count * stack_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (mapped == MAP_FAILED) return false;
    base_ = static_cast<char*>(mapped);
    count_ = count;
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    for (size_t i = 0; i < count; i++) mprotect(base_ + i * stack_bytes, page, PROT_NONE);
    return true;
}

Fibre Stacks::start(size_t index, void (*entry)()) const {
    void** top = reinterpret_cast<void**>(base_ + (index + 1) * stack_bytes - 64);
#if defined(__x86_64__)
    // As after a call: the stack is 8 bytes off a multiple of 16 when `entry` begins. Six registers below its address.
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;
#else
    // The frame that the switch pops: x29, then x30, which is where it returns to.
    for (int i = 0; i < 20; i++) *--top = nullptr;
    top[1] = reinterpret_cast<void*>(entry);
#endif
    return Fibre{top};
}

}  // namespace emu
