// The activations of ActivationParams and LinearParams, by their number: fp32 in and out, relative error below 2^-16 (bf16 rounds at 2^-9).
#pragma once
#include "cuda.cuh"
#include "ptx.cuh"

/// 1 / (1 + e^-x). What is divided by is 1 or more: the reciprocal needs none of the care that a division takes.
DEVICE float sigmoid(float x) { return reciprocal_approx(1.0f + exp2_approx(-1.4426950408889634f * x)); }

/// x (1 + tanh y) / 2, which is x sigmoid(2 y), y = sqrt(2 / pi) (x + 0.044715 x^3). The exponent is one polynomial: three operations where the formula has seven.
DEVICE float gelu_tanh(float x) {
    constexpr float first = static_cast<float>(-1.5957691216057308 * 1.4426950408889634), third = static_cast<float>(-1.5957691216057308 * 1.4426950408889634 * 0.044715);
    return x * reciprocal_approx(1.0f + exp2_approx(x * fmaf(third, x * x, first)));
}

/// 0 none, 1 GELU (tanh form), 2 GELU (erf form), 3 quick-GELU, 4 SiLU, 5 ReLU
DEVICE float activate(float x, unsigned activation) {
    switch (activation) {
        case 1: return gelu_tanh(x);
        // (1 + erf(t)) / 2 is erfc(-t) / 2, which keeps its digits in the negative tail.
        case 2: return 0.5f * x * erfcf(-0.7071067811865476f * x);
        case 3: return x * sigmoid(1.702f * x);
        case 4: return x * sigmoid(x);
        // A NaN stays one.
        case 5: return x < 0.0f ? 0.0f : x;
        default: return x;
    }
}
