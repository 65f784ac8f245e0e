// LinearParams as the kernels of this folder want them.
#pragma once
#include "linear.h"

#include "epilogue.cuh"

namespace product {

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
