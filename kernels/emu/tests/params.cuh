// Parameters of the test kernels.
#pragma once
#include <stdint.h>

struct TestParams {
    uint64_t x;    // [count], bf16 or float as the kernel says
    uint64_t out;  // as the kernel says
    uint32_t count;
    uint32_t padding;
};

// Registers the variants of a test kernel up to this number: 0 is right, and each other has a mistake.
#define VARIANTS_4(V) V(0) V(1) V(2) V(3) V(4)
#define VARIANTS_6(V) VARIANTS_4(V) V(5) V(6)
#define VARIANTS_9(V) VARIANTS_6(V) V(7) V(8) V(9)
#define VARIANTS_11(V) VARIANTS_9(V) V(10) V(11)
#define VARIANTS_15(V) VARIANTS_11(V) V(12) V(13) V(14) V(15)
#define VARIANTS_16(V) VARIANTS_15(V) V(16)
#define VARIANTS_17(V) VARIANTS_16(V) V(17)
#define VARIANTS_18(V) VARIANTS_17(V) V(18)
#define VARIANTS_27(V) VARIANTS_18(V) V(19) V(20) V(21) V(22) V(23) V(24) V(25) V(26) V(27)
