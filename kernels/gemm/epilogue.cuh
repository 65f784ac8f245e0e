// From sums to out: residual + gate * activation(sum + bias), rounded to bf16 after the bias, the activation, the gate and the residual.
//
// Since a sum with its bias is rounded whatever follows, it waits in shared memory as bf16, and the rest is done on rows of 16 bytes that
// neighbouring threads read and write side by side.
#pragma once
#include "../base/activation.cuh"
#include "../base/vec.cuh"

namespace product {

/// Where out lies and what is added. A null pointer: nothing.
struct Epilogue {
    const bf16* bias;      // [columns]
    const bf16* gate;      // [columns]
    const bf16* residual;  // [rows, columns]
    bf16* out;             // [rows, columns]; may be residual
    uint64_t residual_stride, out_stride;
    int64_t rows;
    int columns;
    unsigned activation;
    bool is_aligned;  // gate, residual and out can be accessed 16 bytes at a time
};

/// Up to eight neighbours; what is missing is zero.
DEVICE void load_part(const bf16* from, int count, bool is_aligned, float (&value)[8]) {
    if (is_aligned && count == 8) return unpack8(load8(from), value);
#pragma unroll
    for (int i = 0; i < 8; i++) value[i] = i < count ? __bfloat162float(from[i]) : 0.0f;
}

DEVICE void store_part(bf16* into, int count, bool is_aligned, const float (&value)[8]) {
    if (is_aligned && count == 8) return store8(into, pack8(value));
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (i < count) into[i] = __float2bfloat16_rn(value[i]);
}

template <unsigned kind>
DEVICE void activate_eight(float (&value)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) value[i] = activate(value[i], kind);
    round8(value);
}

/// Eight at once. Chosen once for all of them: chosen for each, every exponential waited for the one before.
DEVICE void activate_rounded(float (&value)[8], unsigned activation) {
    switch (activation) {
        case 1: return activate_eight<1>(value);
        case 2: return activate_eight<2>(value);
        case 3: return activate_eight<3>(value);
        case 4: return activate_eight<4>(value);
        case 5: return activate_eight<5>(value);
    }
}

/// Whether anything is left to do after the bias.
DEVICE bool is_fused(const Epilogue& e) { return e.activation != 0 || e.gate != nullptr || e.residual != nullptr; }

/// Whether that is GELU in its tanh form alone: what FLUX has behind its widest products.
DEVICE bool is_gelu_alone(const Epilogue& e) { return e.activation == 1 && e.gate == nullptr && e.residual == nullptr; }

DEVICE void apply_gate(const float (&gate)[8], float (&value)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) value[i] *= gate[i];
    round8(value);
}

DEVICE void add(const float (&other)[8], float (&value)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) value[i] += other[i];
}

/// Eight columns of a row, of which `count` are there, from the rounded sums with bias; the last rounding is the caller's.
DEVICE void finish_part(const Epilogue& e, Packed8 sums, int64_t row, int column, int count, float (&value)[8]) {
    float other[8];
    unpack8(sums, value);
    if (e.activation != 0) activate_rounded(value, e.activation);
    if (e.gate != nullptr) {
        load_part(e.gate + column, count, e.is_aligned, other);
        apply_gate(other, value);
    }
    if (e.residual != nullptr) {
        load_part(e.residual + row * e.residual_stride + column, count, e.is_aligned, other);
        add(other, value);
    }
}

/// Finishes and stores eight columns of a row from the rounded sums with bias; columns beyond the last are left out.
DEVICE void finish(const Epilogue& e, Packed8 sums, int64_t row, int column) {
    const int count = min(e.columns - column, 8);
    if (row >= e.rows || count <= 0) return;
    float value[8];
    finish_part(e, sums, row, column, count, value);
    store_part(e.out + row * e.out_stride + column, count, e.is_aligned, value);
}

/// The bias of one column, 0 where there is none.
DEVICE float bias_of(const Epilogue& e, int column) {
    return e.bias != nullptr && column < e.columns ? __bfloat162float(e.bias[column]) : 0.0f;
}

/// Where piece `piece` (8 columns) of row `row` waits in a finished tile of `columns` columns: eight rows' words of one column lie in different banks.
template <int columns>
DEVICE unsigned waiting_offset(int row, int piece) {
    constexpr int row_pieces = columns / 8, pattern = row_pieces < 8 ? row_pieces : 8;
    return row * columns * 2 + ((piece ^ (row / (8 / pattern) % pattern)) << 4);
}

/// Finishes all rows of a tile whose rounded sums wait in shared memory.
template <int rows, int columns, int threads>
DEVICE void finish_rows(const Epilogue& e, const unsigned char* tile_smem, int64_t first_row, int first_column, int thread) {
    constexpr int row_pieces = columns / 8;
    for (int i = thread; i < rows * row_pieces; i += threads) {
        const int row = i / row_pieces, piece = i % row_pieces;
        const auto* sums = reinterpret_cast<const bf16*>(tile_smem + waiting_offset<columns>(row, piece));
        finish(e, load8(sums), first_row + row, first_column + piece * 8);
    }
}

}  // namespace product
