// The matrix product of linear_sm80.cu and conv2d.cu: a tile of out = x weight^T by mma.sync m16n8k16, bf16 in, fp32 sums, for every architecture from sm_80 on.
//
// The inner dimension is taken 32 at a time. A stage of the ring holds that much of the tile's rows of x and of weight: rows of 64 bytes, four
// pieces of 16; piece c of row r lies at c ^ (r / 2 % 4), so that the eight rows of an 8 x 8 matrix meet all 32 banks once. Stages arrive by
// cp.async, all but one ahead of the multiplication: one barrier a stage.
#pragma once
#include "../base/cuda.cuh"
#include "../base/ptx.cuh"
#include "../base/vec.cuh"
#include "epilogue.cuh"

namespace product {

/// Elements of the inner dimension in one stage, and 16-byte pieces of its rows.
constexpr int depth = 32, pieces = depth / 8, row_bytes = depth * 2;

/// How a block, or a warp by itself, divides rows x columns of out.
template <int rows_, int columns_, int warps_down, int warps_across, int stages_>
struct Tile {
    static constexpr int rows = rows_, columns = columns_, stages = stages_;
    static constexpr int threads = 32 * warps_down * warps_across;
    static constexpr int warp_rows = rows / warps_down, warp_columns = columns / warps_across;
    static constexpr unsigned x_bytes = rows * row_bytes, stage_bytes = (rows + columns) * row_bytes;
    static constexpr unsigned ring_bytes = stages * stage_bytes;
    static_assert(warp_rows % 16 == 0 && warp_columns % 16 == 0, "ldmatrix.x4 brings 16 rows of either");
    static_assert(stages >= 3 && rows * columns * 2 <= ring_bytes, "the ring holds the finished tile");

    /// The warp's place in the tile.
    DEVICE static int warp_row(int warp) { return warp / warps_across * warp_rows; }
    DEVICE static int warp_column(int warp) { return warp % warps_across * warp_columns; }
};

/// Where piece `piece` of row `row` lies in a stage.
DEVICE unsigned piece_offset(int row, int piece) { return row * row_bytes + ((piece ^ (row >> 1 & 3)) << 4); }

// ---- operands: each brings the next 32 elements of its rows at every `copy`

/// Rows of a matrix [count, inner], both `is_aligned`: the address and the stride are multiples of 16 bytes. What lies outside becomes zero.
template <int rows, int threads, bool is_aligned>
struct MatrixRows {
    static constexpr int rows_a_pass = threads / pieces;
    const bf16* next;  // this thread's piece of its first row
    uint64_t pass_stride;
    int thread_row, rows_left, inner_left;

    DEVICE MatrixRows(const bf16* matrix, uint64_t stride, int64_t first, int64_t count, int inner, int thread) {
        thread_row = thread / pieces;
        const int piece = thread % pieces;
        next = matrix + (first + thread_row) * stride + piece * 8;
        pass_stride = stride * rows_a_pass;
        const int64_t left = count - first - thread_row;
        rows_left = static_cast<int>(min(left, static_cast<int64_t>(rows)));
        inner_left = inner - piece * 8;
    }

    /// `step` steps of 32 further on.
    DEVICE void skip(int steps) {
        next += steps * depth;
        inner_left -= steps * depth;
    }

    DEVICE void copy(unsigned char* stage_smem, int thread) {
        const int piece = thread % pieces;
#pragma unroll
        for (int row = 0; row < rows; row += rows_a_pass) {
            if (rows % rows_a_pass != 0 && thread_row + row >= rows) break;
            unsigned char* target = stage_smem + piece_offset(thread_row + row, piece);
            const int elements = row < rows_left ? min(max(inner_left, 0), 8) : 0;
            const bf16* source = next + row / rows_a_pass * pass_stride;
            if constexpr (is_aligned)
                copy_async16_part(shared_address(target), source, elements * 2);
            else
                *reinterpret_cast<Packed8*>(target) = gather(source, elements);
        }
        skip(1);
    }

    /// The first `elements` of 8, the others zero.
    DEVICE static Packed8 gather(const bf16* source, int elements) {
        float value[8];
#pragma unroll
        for (int i = 0; i < 8; i++) value[i] = i < elements ? __bfloat162float(source[i]) : 0.0f;
        return pack8(value);
    }
};

// ---- the multiplication

/// What a lane holds of its warp's part: rows lane / 4 and lane / 4 + 8 of every 16, columns lane % 4 * 2 + {0, 1} of every 8.
template <class Tile>
struct Sums {
    float value[Tile::warp_rows / 16][Tile::warp_columns / 8][4];
};

template <class Tile>
struct Fragments {
    unsigned x[Tile::warp_rows / 16][4];
    unsigned weight[Tile::warp_columns / 16][4];  // two times 8 columns
};

/// The warp's operands of 16 elements, `half` 0 or 1 of a stage.
template <class Tile>
DEVICE void load(Fragments<Tile>& f, unsigned x_smem, unsigned weight_smem, int half, int lane) {
#pragma unroll
    for (int m = 0; m < Tile::warp_rows / 16; m++)
        matrix_load4(f.x[m], x_smem + piece_offset(m * 16 + lane % 16, half * 2 + lane / 16));
#pragma unroll
    for (int n = 0; n < Tile::warp_columns / 16; n++)
        matrix_load4(f.weight[n], weight_smem + piece_offset(n * 16 + lane % 8 + lane / 16 * 8, half * 2 + lane / 8 % 2));
}

template <class Tile>
DEVICE void multiply(Sums<Tile>& sums, const Fragments<Tile>& f) {
#pragma unroll
    for (int m = 0; m < Tile::warp_rows / 16; m++) {
#pragma unroll
        for (int n = 0; n < Tile::warp_columns / 16; n++) {
            product_16816(sums.value[m][2 * n], f.x[m], f.weight[n][0], f.weight[n][1]);
            product_16816(sums.value[m][2 * n + 1], f.x[m], f.weight[n][2], f.weight[n][3]);
        }
    }
}

/// All threads of the tile are here, and see each other's stores.
template <class Tile>
DEVICE void meet() {
    if constexpr (Tile::threads == 32)
        __syncwarp();
    else
        __syncthreads();
}

/// sums += x weight^T over `steps` stages. The ring belongs to the tile's threads, and is free again at the end.
template <class Tile, class X, class Weight>
DEVICE void sum_products(Sums<Tile>& sums, X& x, Weight& weight, unsigned char* ring_smem, int steps, int thread) {
    const int lane = thread % 32, warp = thread / 32;
    const unsigned ring = shared_address(ring_smem);
    const auto copy = [&](int step) {
        unsigned char* stage = ring_smem + step % Tile::stages * Tile::stage_bytes;
        x.copy(stage, thread);
        weight.copy(stage + Tile::x_bytes, thread);
    };
#pragma unroll
    for (int step = 0; step < Tile::stages - 1; step++) {
        if (step < steps) copy(step);
        copy_async_commit();
    }
    for (int step = 0; step < steps; step++) {
        // This stage has landed, and nobody reads the one before any more: that is where the copy below goes.
        copy_async_wait<Tile::stages - 2>();
        meet<Tile>();
        if (step + Tile::stages - 1 < steps) copy(step + Tile::stages - 1);
        copy_async_commit();
        const unsigned stage = ring + step % Tile::stages * Tile::stage_bytes;
        const unsigned x_smem = stage + Tile::warp_row(warp) * row_bytes;
        const unsigned weight_smem = stage + Tile::x_bytes + Tile::warp_column(warp) * row_bytes;
        Fragments<Tile> first, second;
        load<Tile>(first, x_smem, weight_smem, 0, lane);
        load<Tile>(second, x_smem, weight_smem, 1, lane);
        multiply<Tile>(sums, first);
        multiply<Tile>(sums, second);
    }
    copy_async_wait<0>();
    meet<Tile>();
}

/// Puts the tile's sums with their bias, rounded, where `finish_rows` expects them.
template <class Tile>
DEVICE void put_sums(const Sums<Tile>& sums, const Epilogue& e, unsigned char* tile_smem, int first_column, int thread) {
    const int lane = thread % 32, warp_row = Tile::warp_row(thread / 32), warp_column = Tile::warp_column(thread / 32);
#pragma unroll
    for (int n = 0; n < Tile::warp_columns / 8; n++) {
        const int column = warp_column + n * 8;
        const float bias0 = bias_of(e, first_column + column + lane % 4 * 2);
        const float bias1 = bias_of(e, first_column + column + lane % 4 * 2 + 1);
#pragma unroll
        for (int m = 0; m < Tile::warp_rows / 16; m++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const int row = warp_row + m * 16 + lane / 4 + r * 8;
                unsigned char* target = tile_smem + waiting_offset<Tile::columns>(row, column / 8) + lane % 4 * 4;
                *reinterpret_cast<unsigned*>(target) = pack_bf16(sums.value[m][n][2 * r] + bias0, sums.value[m][n][2 * r + 1] + bias1);
            }
        }
    }
}

/// Stores sums with their bias unrounded: out is [rows, columns] of float. A quad of lanes writes 32 bytes side by side.
template <class Tile>
DEVICE void store_sums(const Sums<Tile>& sums, const Epilogue& e, int64_t first_row, int first_column, int thread) {
    const int lane = thread % 32;
    first_row += Tile::warp_row(thread / 32) + lane / 4;
    first_column += Tile::warp_column(thread / 32) + lane % 4 * 2;
    float* out = reinterpret_cast<float*>(e.out);
    const bool is_paired = (reinterpret_cast<uint64_t>(out) | e.out_stride * 4) % 8 == 0;
#pragma unroll
    for (int n = 0; n < Tile::warp_columns / 8; n++) {
        const int column = first_column + n * 8;
        const float bias0 = bias_of(e, column), bias1 = bias_of(e, column + 1);
#pragma unroll
        for (int m = 0; m < Tile::warp_rows / 8; m++) {
            const int64_t row = first_row + m * 8;
            if (row >= e.rows || column >= e.columns) continue;
            float* target = out + row * e.out_stride + column;
            const float low = sums.value[m / 2][n][m % 2 * 2] + bias0, high = sums.value[m / 2][n][m % 2 * 2 + 1] + bias1;
            if (is_paired && column + 1 < e.columns) {
                *reinterpret_cast<float2*>(target) = make_float2(low, high);
            } else {
                target[0] = low;
                if (column + 1 < e.columns) target[1] = high;
            }
        }
    }
}

/// What becomes of the sums: rounded and finished, or stored as they are.
enum class Result { Finished, Sums };

/// One tile of out = x weight^T from beginning to end; `smem` has Tile::ring_bytes.
template <class Tile, Result result = Result::Finished, class X, class Weight>
DEVICE void multiply_tile(X& x, Weight& weight, const Epilogue& e, unsigned char* smem, int inner, int64_t first_row, int first_column) {
    const int thread = threadIdx.x;
    Sums<Tile> sums = {};
    sum_products<Tile>(sums, x, weight, smem, (inner + depth - 1) / depth, thread);
    if constexpr (result == Result::Sums) {
        store_sums<Tile>(sums, e, first_row, first_column, thread);
    } else {
        put_sums<Tile>(sums, e, smem, first_column, thread);
        meet<Tile>();
        finish_rows<Tile::rows, Tile::columns, Tile::threads>(e, smem, first_row, first_column, thread);
    }
}

}  // namespace product
