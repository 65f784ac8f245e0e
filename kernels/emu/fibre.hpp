// Fibres: one stack for each CUDA thread, and a switch between two of them that saves what the calling convention asks for.
#pragma once
#include "types.hpp"

namespace emu {

/// A suspended flow of control: its stack pointer. Everything else lies on the stack.
struct Fibre {
    void* stack_pointer = nullptr;
};

/// Saves the running flow in `from` and goes on in `to`.
void switch_fibre(Fibre& from, const Fibre& to);

/// Stacks of equal size with an unmapped page below each, so that an overflow faults instead of corrupting its neighbour.
class Stacks {
   public:
    static constexpr size_t stack_bytes = 128 * 1024;

    Stacks() = default;
    Stacks(const Stacks&) = delete;
    Stacks& operator=(const Stacks&) = delete;
    ~Stacks();

    /// Makes room for `count` stacks; keeps what is there. False if the system has no memory.
    bool reserve(size_t count);

    /// A fibre that starts in `entry` on stack `index`. `entry` must never return.
    Fibre start(size_t index, void (*entry)()) const;

    /// Whether the address lies on one of the stacks.
    bool contains(const void* address) const {
        return static_cast<size_t>(static_cast<const char*>(address) - base_) < count_ * stack_bytes;
    }

   private:
    void release();

    char* base_ = nullptr;
    size_t count_ = 0;
};

}  // namespace emu
