// The few types and numbers that every file of the emulator uses.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emu {

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;

constexpr u32 warp_lanes = 32;
constexpr u32 group_warps = 4;
constexpr u32 all_lanes = 0xffffffffu;

/// Where in the program something was done: a return address into a kernel, turned into a source line only when it is printed.
using Place = const void*;

}  // namespace emu
