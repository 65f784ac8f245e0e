// target[i] = source[i] + 1 for four floats
//
// What the tests of the device layer launch, and what `lighterage doctor` launches to see whether images run at all.
// Mapping: one thread an element.
// Bytes: source and target once, 32, so 2 us for the launch.
#include "cuda.cuh"

/// `SelfTestParams` of self_test.rs.
struct SelfTestParams {
    uint64_t target;  // [4]
    uint64_t source;  // [4]; may be target
};

extern "C" __global__ void __launch_bounds__(32) self_test_add_one(const __grid_constant__ SelfTestParams p) {
    if (threadIdx.x >= 4) return;
    const float* source = reinterpret_cast<const float*>(p.source);
    reinterpret_cast<float*>(p.target)[threadIdx.x] = source[threadIdx.x] + 1.0f;
}
KERNEL(self_test_add_one)
