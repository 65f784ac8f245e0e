// How a warpgroup's finished sums, 64 rows, leave on sm_90a: as rows of 16 bytes by its threads, or as boxes of 64 columns by TMA, which goes on while the next tile is multiplied.
#pragma once
#include "epilogue.cuh"
#include "ring_sm90a.cuh"

namespace product {

constexpr int group_rows = 64;

/// The bias of this thread's columns, two a word: fetched while the last products are under way.
template <int columns>
DEVICE void load_bias(const Epilogue& e, int first_column, unsigned (&bias)[columns / 8]) {
    const int column = first_column + static_cast<int>(threadIdx.x % 4) * 2;
    const bool are_words = reinterpret_cast<uint64_t>(e.bias) % 4 == 0 && first_column + columns <= e.columns;
    // One branch for all of them: loads that wait for nothing.
    if (e.bias != nullptr && are_words) {
#pragma unroll
        for (int n = 0; n < columns / 8; n++) bias[n] = *reinterpret_cast<const unsigned*>(e.bias + column + n * 8);
    } else {
#pragma unroll
        for (int n = 0; n < columns / 8; n++) bias[n] = pack_bf16(bias_of(e, column + n * 8), bias_of(e, column + n * 8 + 1));
    }
}

/// Puts `columns` columns of sums with their bias, rounded, where `offset(row, piece)` says, a piece being 8 columns.
template <int columns, int count, class Offset>
DEVICE void put_sums(const float (&sums)[count], const unsigned (&bias)[count / 4], int first, unsigned waiting_smem, Offset offset) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x % group_threads / 32;
    // stmatrix: lane i names row i % 8 of matrix i / 8; matrices 0 and 1 are rows 0-7 and 8-15 of 8 columns, 2 and 3 those of the next 8.
    const int row = warp * 16 + lane % 16, matrix_column = lane / 16;
#pragma unroll
    for (int n = 0; n < columns / 8; n += 2) {
        unsigned pairs[4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const unsigned both = bias[first / 8 + n + i];
            const float* own = sums + (first / 8 + n + i) * 4;
            pairs[2 * i] = pack_bf16(own[0] + low_bf16(both), own[1] + high_bf16(both));
            pairs[2 * i + 1] = pack_bf16(own[2] + low_bf16(both), own[3] + high_bf16(both));
        }
        matrix_store4(waiting_smem + offset(row, n + matrix_column), pairs);
    }
}

/// A tile of one warpgroup: its first row and column, and what it waits in.
struct Leaving {
    int64_t row;
    int column;
    int group;
    unsigned char* waiting_smem;
};

/// By the threads: 128 columns at a time, in rows of 16 bytes.
struct StoreRows {
    static constexpr int columns = 128;
    static constexpr unsigned waiting_bytes = group_rows * columns * 2;

    template <int count>
    DEVICE static void store(const float (&sums)[count], const unsigned (&bias)[count / 4], const Epilogue& e, const TensorMap*, const Leaving& tile) {
        const int thread = threadIdx.x % group_threads;
#pragma unroll
        for (int first = 0; first < count * 2; first += columns) {
            // Everybody has read what waited here before.
            named_barrier_sync(1 + tile.group, group_threads);
            put_sums<columns>(sums, bias, first, shared_address(tile.waiting_smem), waiting_offset<columns>);
            named_barrier_sync(1 + tile.group, group_threads);
            finish_rows<group_rows, columns, group_threads>(e, tile.waiting_smem, tile.row, tile.column + first, thread);
        }
    }

    DEVICE static void finish() {}
};

/// By TMA: boxes of 64 columns in the 128-byte swizzle, `boxes` of them on their way at most. Map 2 is out.
template <int boxes>
struct StoreBoxes {
    static constexpr int columns = 64;
    static constexpr unsigned box_bytes = group_rows * columns * 2, waiting_bytes = boxes * box_bytes;

    DEVICE static unsigned offset(int row, int piece) { return row * 128 + ((piece ^ (row & 7)) << 4); }

    /// Activation, gate and residual, in place.
    DEVICE static void finish_box(const Epilogue& e, unsigned char* box_smem, int64_t first_row, int first_column) {
        for (int i = threadIdx.x % group_threads; i < group_rows * 8; i += group_threads) {
            auto* own = reinterpret_cast<bf16*>(box_smem + offset(i / 8, i % 8));
            const int64_t row = first_row + i / 8;
            const int column = first_column + i % 8 * 8, inside = min(e.columns - column, 8);
            if (row >= e.rows || inside <= 0) continue;
            float value[8];
            finish_part(e, load8(own), row, column, inside, value);
            store8(own, pack8(value));
        }
    }

    template <int count>
    DEVICE static void store(const float (&sums)[count], const unsigned (&bias)[count / 4], const Epilogue& e, const TensorMap* out, const Leaving& tile) {
        // As many boxes at a time as a tile has, or one.
        constexpr int tile_boxes = count * 2 / columns, turn = boxes >= tile_boxes ? tile_boxes : 1;
        // Boxes that go all at once have one place.
        constexpr int turns_left = boxes >= tile_boxes ? 0 : boxes - 1;
        const bool is_first = threadIdx.x % group_threads == 0;
#pragma unroll
        for (int box = 0; box < tile_boxes; box += turn) {
            unsigned char* boxes_smem = tile.waiting_smem + (boxes >= tile_boxes ? 0 : box % boxes * box_bytes);
            if (is_first) bulk_wait_read<turns_left>();
            named_barrier_sync(1 + tile.group, group_threads);
#pragma unroll
            for (int i = 0; i < turn; i++)
                put_sums<columns>(sums, bias, (box + i) * columns, shared_address(boxes_smem) + i * box_bytes, offset);
            if (is_fused(e)) {
                named_barrier_sync(1 + tile.group, group_threads);
                for (int i = 0; i < turn; i++) finish_box(e, boxes_smem + i * box_bytes, tile.row, tile.column + (box + i) * columns);
            }
            fence_proxy_async();
            named_barrier_sync(1 + tile.group, group_threads);
            if (!is_first) continue;
            for (int i = 0; i < turn; i++)
                bulk_store(shared_address(boxes_smem) + i * box_bytes, out, tile.column + (box + i) * columns, static_cast<int>(tile.row));
            bulk_commit();
        }
    }

    /// Shared memory stays until all of it is read.
    DEVICE static void finish() {
        if (threadIdx.x % group_threads == 0) bulk_wait_read<0>();
    }
};

/// The sums of a piece, row after row: the words of a row that a quad holds are one sector.
template <int count>
DEVICE void store_sums(float* target, const float (&sums)[count], int group) {
    constexpr int columns = count * 2;
    const int thread = threadIdx.x % group_threads, lane = thread % 32, row = group * group_rows + thread / 32 * 16 + lane / 4;
#pragma unroll
    for (int n = 0; n < columns / 8; n++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float* const place = target + (row + r * 8) * columns + n * 8 + lane % 4 * 2;
            *reinterpret_cast<float2*>(place) = make_float2(sums[4 * n + 2 * r], sums[4 * n + 2 * r + 1]);
        }
    }
}

}  // namespace product
