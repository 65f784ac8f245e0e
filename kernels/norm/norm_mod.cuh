// What norm_mod.cu and norm_mod_sm90a.cu share.
#pragma once
#include "norm_mod.h"

#include "layer.cuh"

namespace {

/// One row's addresses.
DEVICE Job job_of(const NormModParams& p, unsigned row) {
    const bool is_first = row < p.split;
    Job job;
    job.x = reinterpret_cast<bf16*>(p.x) + row * p.x_stride;
    job.y = reinterpret_cast<const bf16*>(p.y) + row * p.y_stride;
    job.gate = reinterpret_cast<const bf16*>(is_first ? p.first_gate : p.second_gate);
    job.factor = reinterpret_cast<const bf16*>(is_first ? p.first_scale : p.second_scale);
    job.shift = reinterpret_cast<const bf16*>(is_first ? p.first_shift : p.second_shift);
    job.out = reinterpret_cast<bf16*>(p.out) + row * p.out_stride;
    return job;
}

}  // namespace
