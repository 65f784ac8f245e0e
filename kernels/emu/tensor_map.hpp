// A tensor map as plain data: what `cuTensorMapEncodeTiled` is told, and the emulator reads as it stands.
#pragma once
#include "types.hpp"

namespace emu {

struct TensorMap {
    u64 address;
    /// Elements, innermost first.
    u64 sizes[5];
    /// Bytes between neighbours of dimensions 1 to 4.
    u64 strides[4];
    /// Elements of one copy, innermost first.
    u32 box[5];
    u32 rank;
    u32 element_bytes;
    /// 0, 32, 64 or 128.
    u32 swizzle_bytes;
};

/// The swizzle of TMA and wgmma: 16-byte pieces trade places by the row of the pattern. For 128 bytes, address bits 4 to 6 are
/// xored with bits 7 to 9; for 64 bits 4 to 5 with 7 to 8; for 32 bit 4 with bit 7 (PTX ISA, "Swizzling modes").
inline u32 swizzled(u32 address, u32 swizzle_bytes) {
    const u32 mask = swizzle_bytes / 16 - (swizzle_bytes != 0);
    return address ^ (((address >> 7) & mask) << 4);
}

}  // namespace emu
