#ifndef LIGHTERAGE_QK_NORM_ROPE_H
#define LIGHTERAGE_QK_NORM_ROPE_H

#include <stdint.h>

/*
 * For q and k, each head of each row, in place: RMSNorm over head_dim with a learned weight (rounded to the element type before
 * the weight), then rotation of adjacent pairs (Su et al. 2021):
 *   y[2p] = x[2p] * cos[r, p] - x[2p + 1] * sin[r, p];   y[2p + 1] = x[2p] * sin[r, p] + x[2p + 1] * cos[r, p]
 * Rows before `split` (text) take the first pair of weights, the others (image) the second. Rotation in fp32.
 */
struct QkNormRopeParams {
    /* [rows, heads, head_dim], dense along head_dim */
    uint64_t q;
    /* [rows, heads, head_dim], dense along head_dim */
    uint64_t k;
    /* [head_dim]; rows below split */
    uint64_t first_q_weight;
    /* [head_dim] */
    uint64_t first_k_weight;
    /* [head_dim]; rows from split on */
    uint64_t second_q_weight;
    /* [head_dim] */
    uint64_t second_k_weight;
    /* fp32 [rows, head_dim / 2], contiguous */
    uint64_t cos;
    /* fp32 [rows, head_dim / 2], contiguous */
    uint64_t sin;
    /* elements */
    uint64_t q_row_stride;
    /* elements */
    uint64_t q_head_stride;
    /* elements */
    uint64_t k_row_stride;
    /* elements */
    uint64_t k_head_stride;
    /* tokens */
    uint32_t rows;
    /* heads of q and of k */
    uint32_t heads;
    /* even */
    uint32_t head_dim;
    /* first row of the second range */
    uint32_t split;
    /* added to the mean square */
    float eps;
    /* zero */
    uint32_t padding;
};

#endif
