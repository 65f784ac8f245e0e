// LinearParams as the kernels of this folder want them.
#pragma once
#include "linear.h"

#include "epilogue.cuh"

namespace product {

/// The workspace begins with the number of blocks that made the pieces: who joins them has another grid. Then come slots of 128 x 256 sums.
constexpr unsigned workspace_header_bytes = 256;
constexpr int piece_floats = 128 * 256;

DEVICE unsigned* workspace_grid(const LinearParams& p) { return reinterpret_cast<unsigned*>(p.workspace); }

DEVICE float* piece_sums(const LinearParams& p, int slot) {
    return reinterpret_cast<float*>(p.workspace + workspace_header_bytes) + static_cast<uint64_t>(slot) * piece_floats;
}

DEVICE Epilogue epilogue_of(const LinearParams& p) {
    Epilogue e;
    e.bias = reinterpret_cast<const bf16*>(p.bias);
    e.gate = reinterpret_cast<const bf16*>(p.gate);
    e.residual = reinterpret_cast<const bf16*>(p.residual);
    e.out = reinterpret_cast<bf16*>(p.out);
    e.residual_stride = p.residual_stride;
    e.out_stride = p.out_stride;
    e.rows = p.rows;
    e.columns = static_cast<int>(p.columns);
    e.activation = p.activation;
    const uint64_t residual_bits = p.residual == 0 ? 0 : p.residual | p.residual_stride * 2;
    e.is_aligned = (p.gate | residual_bits | p.out | p.out_stride * 2) % 16 == 0;
    return e;
}

}  // namespace product
