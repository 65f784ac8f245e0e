#ifndef LIGHTERAGE_EMBEDDING_H
#define LIGHTERAGE_EMBEDDING_H

#include <stdint.h>

/*
 * out[r, :] = table[ids[r], :]: a gather of rows. The row of an id outside of the table becomes NaN; whoever uploads ids has checked them.
 */
struct EmbeddingParams {
    /* int32 [rows] */
    uint64_t ids;
    /* [vocabulary, columns], contiguous */
    uint64_t table;
    /* [rows, columns], contiguous */
    uint64_t out;
    /* ids */
    uint32_t rows;
    /* of the table */
    uint32_t columns;
    /* rows of the table */
    uint32_t vocabulary;
    /* zero */
    uint32_t padding;
};

#endif
