#ifndef LIGHTERAGE_LINEAR_H
#define LIGHTERAGE_LINEAR_H

#include <stdint.h>

/*
 * out[r, c] = residual[r, c] + gate[c] * activation(sum_k x[r, k] * weight[c, k] + bias[c])
 * Accumulated in fp32; rounded to the element type after the bias, the activation, the gate and the residual. A missing bias, gate or residual is address 0: then it is 0, 1 and 0.
 * `out` may be `residual` (in place); it may not overlap anything else.
 */
struct LinearParams {
    /* [rows, inner], rows x_stride apart */
    uint64_t x;
    /* [columns, inner], rows weight_stride apart */
    uint64_t weight;
    /* [columns], or 0 */
    uint64_t bias;
    /* [columns], or 0 */
    uint64_t gate;
    /* [rows, columns], rows residual_stride apart, or 0 */
    uint64_t residual;
    /* [rows, columns], rows out_stride apart */
    uint64_t out;
    /* 256 bytes aligned, as many bytes as `gemm::linear::workspace_bytes` says for these sizes, undefined contents; 0 where that is 0 */
    uint64_t workspace;
    /* elements */
    uint64_t x_stride;
    /* elements */
    uint64_t weight_stride;
    /* elements */
    uint64_t residual_stride;
    /* elements */
    uint64_t out_stride;
    /* rows of x and out */
    uint32_t rows;
    /* rows of weight, columns of out */
    uint32_t columns;
    /* the summed dimension */
    uint32_t inner;
    /* 0 none, 1 GELU (tanh form), 2 GELU (erf form), 3 quick-GELU, 4 SiLU, 5 ReLU; as in ActivationParams */
    uint32_t activation;
};

#endif
