#ifndef LIGHTERAGE_ACTIVATION_H
#define LIGHTERAGE_ACTIVATION_H

#include <stdint.h>

/*
 * out[r, c] = f(x[r, c]), f chosen by kind:
 * 1 GELU in its tanh form, 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))); 2 GELU exact, 0.5 x (1 + erf(x / sqrt(2)));
 * 3 quick-GELU, x sigmoid(1.702 x); 4 SiLU, x sigmoid(x) (Hendrycks & Gimpel 2016); 5 ReLU, max(x, 0).
 */
struct ActivationParams {
    /* [rows, columns], rows x_stride apart */
    uint64_t x;
    /* [rows, columns], rows out_stride apart; may be x */
    uint64_t out;
    /* elements */
    uint64_t x_stride;
    /* elements */
    uint64_t out_stride;
    /* rows */
    uint32_t rows;
    /* columns */
    uint32_t columns;
    /* 1 to 5, see above */
    uint32_t kind;
    /* zero */
    uint32_t padding;
};

#endif
