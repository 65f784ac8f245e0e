#ifndef LIGHTERAGE_ATTENTION_H
#define LIGHTERAGE_ATTENTION_H

#include <stdint.h>

/*
 * out[i, h, :] = sum_j softmax_j(scale * q[i, h, :] . k[j, h, :] + bias(h, j - i)) * v[j, h, :]
 * Softmax and both sums in fp32; no [queries, keys] matrix is ever stored. Causal: j <= i only (queries == keys).
 * The bias is T5's: bias(h, d) = bias_table[bucket(d), h], bidirectional buckets (Raffel et al. 2020, section 2.1).
 */
struct AttentionParams {
    /* [queries, heads, head_dim], dense along head_dim */
    uint64_t q;
    /* [keys, heads, head_dim], dense along head_dim */
    uint64_t k;
    /* [keys, heads, head_dim], dense along head_dim */
    uint64_t v;
    /* [queries, heads, head_dim], dense along head_dim */
    uint64_t out;
    /* [buckets, heads], contiguous, same element type as q, or 0 */
    uint64_t bias_table;
    /* 256 bytes aligned, as many bytes as `attention::workspace_bytes` says for these sizes, undefined contents; 0 where that is 0 */
    uint64_t workspace;
    /* elements between queries */
    uint64_t q_row_stride;
    /* elements between heads */
    uint64_t q_head_stride;
    /* elements between keys */
    uint64_t k_row_stride;
    /* elements between heads */
    uint64_t k_head_stride;
    /* elements between keys */
    uint64_t v_row_stride;
    /* elements between heads */
    uint64_t v_head_stride;
    /* elements between queries */
    uint64_t out_row_stride;
    /* elements between heads */
    uint64_t out_head_stride;
    /* rows of q and out */
    uint32_t queries;
    /* rows of k and v */
    uint32_t keys;
    /* number of heads */
    uint32_t heads;
    /* elements of one head */
    uint32_t head_dim;
    /* factor on the scores; 1 / sqrt(head_dim) but for T5, where it is 1 */
    float scale;
    /* 1: only keys up to the query's own position */
    uint32_t causal;
    /* rows of bias_table */
    uint32_t buckets;
    /* T5's relative_attention_max_distance */
    uint32_t max_distance;
};

#endif
