#ifndef LIGHTERAGE_EULER_STEP_H
#define LIGHTERAGE_EULER_STEP_H

#include <stdint.h>

/*
 * x[i] = x[i] + delta * velocity[i], computed in fp32, rounded once: one step along the flow (Lipman et al. 2022).
 */
struct EulerStepParams {
    /* [count], read and written */
    uint64_t x;
    /* [count] */
    uint64_t velocity;
    /* elements */
    uint32_t count;
    /* sigma of the next step less sigma of this one; negative */
    float delta;
};

#endif
