// Parameters of the test kernels.
#pragma once
#include <stdint.h>

struct TestParams {
    uint64_t x;    // [count], bf16 or float as the kernel says
    uint64_t out;  // as the kernel says
    uint32_t count;
    uint32_t padding;
};
