// wgmma and setmaxnreg, as base/ptx.cuh calls them.
#pragma once
#include "types.hpp"

namespace emu {

/// wgmma.mma_async m64nNk16: d[64, n] (+)= a[64, 16] b[16, n]. `a_registers` where a comes from registers, else descriptor `a`.
struct GroupOperands {
    float* d;
    const u32* a_registers;
    u64 a, b;
    u32 n;
    bool a_transposed, b_transposed, accumulates;
};
void group_product(const GroupOperands& operands);
void group_fence();
void group_commit();
/// Waits until at most `groups` of the warpgroup's committed groups are under way.
void group_wait(u32 groups);
/// setmaxnreg.dec and .inc: this warp's threads have so many registers from here on.
void release_registers(u32 registers);
void take_registers(u32 registers);

}  // namespace emu
