// Conv2dParams as both convolutions want what comes after their sums.
#pragma once
#include "conv2d.h"

#include "../gemm/epilogue.cuh"

namespace product {

DEVICE Epilogue epilogue_of(const Conv2dParams& p) {
    Epilogue e;
    e.bias = reinterpret_cast<const bf16*>(p.bias);
    e.gate = nullptr;
    e.residual = reinterpret_cast<const bf16*>(p.residual);
    e.out = reinterpret_cast<bf16*>(p.out);
    e.residual_stride = e.out_stride = p.out_channels;
    e.rows = int64_t{p.out_height} * p.out_width;
    e.columns = static_cast<int>(p.out_channels);
    e.activation = 0;
    e.is_aligned = (p.residual | p.out | uint64_t{p.out_channels} * 2) % 16 == 0;
    return e;
}

}  // namespace product
