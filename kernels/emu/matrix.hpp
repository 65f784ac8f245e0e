// Tensor-core instructions of a warp, as base/ptx.cuh calls them.
#pragma once
#include "types.hpp"

namespace emu {

/// ldmatrix: `count` (1, 2 or 4) matrices of 8 x 8 b16. Lane i gives the address of row i % 8 of matrix i / 8.
void matrix_load(u32* registers, u32 row_address, u32 count, bool is_transposed);
/// stmatrix: the way back.
void matrix_store(u32 row_address, const u32* registers, u32 count, bool is_transposed);
/// mma.sync m16n8k16: d[16, 8] += a[16, 16] * b[16, 8], bf16 in, fp32 out.
void product_16816(float* d, const u32* a, const u32* b);

}  // namespace emu
