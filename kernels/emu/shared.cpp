// Shared memory as a kernel declares it.
#include "block.hpp"

namespace emu {

void* dynamic_shared() { return block->shared.base() + block->self().rank * SharedMemory::window_bytes; }

void* static_shared(const void* tag, u32 bytes, u32 align) {
    return block->shared.static_variable(block->self().rank, tag, bytes, align, block->launch.config.shared_bytes_max);
}

}  // namespace emu
