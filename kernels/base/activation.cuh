// The activations of ActivationParams and LinearParams, by their number: fp32 in and out, relative error below 2^-16 (bf16 rounds at 2^-9).
#pragma once
#include "cuda.cuh"
#include "ptx.cuh"

/// 1 / (1 + e^-x)
DEVICE float sigmoid(float x) { return __fdividef(1.0f, 1.0f + exp2_approx(-1.4426950408889634f * x)); }

/// 0 none, 1 GELU (tanh form), 2 GELU (erf form), 3 quick-GELU, 4 SiLU, 5 ReLU
DEVICE float activate(float x, unsigned activation) {
    switch (activation) {
        // (1 + tanh y) / 2 is sigmoid(2 y), y = sqrt(2 / pi) (x + 0.044715 x^3).
        case 1: return x * sigmoid(1.5957691216057308f * (x + 0.044715f * x * x * x));
        // (1 + erf(t)) / 2 is erfc(-t) / 2, which keeps its digits in the negative tail.
        case 2: return 0.5f * x * erfcf(-0.7071067811865476f * x);
        case 3: return x * sigmoid(1.702f * x);
        case 4: return x * sigmoid(x);
        // A NaN stays one.
        case 5: return x < 0.0f ? 0.0f : x;
        default: return x;
    }
}
