// How a warpgroup's finished sums, 64 rows, leave on sm_90a: as rows of 16 bytes by its threads, or as boxes of 64 columns by TMA, which goes on while the next tile is multiplied.
#pragma once
#include "epilogue.cuh"
#include "ring_sm90a.cuh"

namespace product {

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

/// GELU of two rounded sums, rounded again.
DEVICE unsigned gelu_pair(unsigned both) { return pack_bf16(gelu_tanh(low_bf16(both)), gelu_tanh(high_bf16(both))); }

/// Puts `columns` columns of sums with their bias, rounded, where `offset(row, piece)` says, a piece being 8 columns.
template <int columns, bool is_gelu = false, int count, class Offset>
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
        if constexpr (is_gelu) {
#pragma unroll
            for (int i = 0; i < 4; i++) pairs[i] = gelu_pair(pairs[i]);
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
    /// Which of the warpgroup's parts of 64 rows.
    int half = 0;

    /// The rows of another part.
    DEVICE Leaving below(int to) const { return {row + to * group_rows, column, group, waiting_smem, to}; }

    /// Row `index` of the part, in out.
    DEVICE int64_t row_of(int index) const { return row + index; }

    /// Stores a box of its rows by TMA.
    DEVICE void store(unsigned box_smem, const TensorMap* out, int first_column) const { bulk_store(box_smem, out, first_column, static_cast<int>(row)); }
};

/// By the threads: 128 columns at a time, in rows of 16 bytes.
struct StoreRows {
    static constexpr int columns = 128;
    static constexpr unsigned waiting_bytes = group_rows * columns * 2;

    /// Nothing is fetched early.
    template <int tile_columns>
    struct Early {
        DEVICE Early(const Epilogue&, const Leaving&) {}
        DEVICE void fetch(const Epilogue&, const Leaving&, int) {}
    };

    template <int count>
    DEVICE static void store(const float (&sums)[count], const unsigned (&bias)[count / 4], const Epilogue& e, const TensorMap*, const Leaving& tile,
                             Early<count * 2>&) {
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

/// By TMA: boxes of 64 columns in the 128-byte swizzle, or of 48 columns without one, `boxes` of them on their way at most. Map 2 is out. A `Rows` says which rows of out they are,
/// as Leaving does.
template <int boxes, int columns = 64>
struct StoreBoxes {
    static constexpr int pieces = columns / 8, parts = group_rows * pieces / group_threads;
    static constexpr unsigned row_bytes = columns * 2, box_bytes = group_rows * row_bytes, waiting_bytes = boxes * box_bytes;
    static_assert(group_rows * pieces % group_threads == 0 && box_bytes % 128 == 0);

    DEVICE static unsigned offset(int row, int piece) { return row * row_bytes + ((columns == 64 ? piece ^ (row & 7) : piece) << 4); }

    /// Eight columns of a row of a box: what a thread finishes, `parts` of them in each.
    struct Part {
        const Epilogue& e;
        int64_t row;
        int column, inside;
        unsigned place;
        bool is_whole;

        template <class Rows>
        DEVICE Part(const Epilogue& epilogue, const Rows& tile, int box, int part) : e(epilogue) {
            const int index = static_cast<int>(threadIdx.x % group_threads) + part * group_threads, piece = index % pieces;
            row = tile.row_of(index / pieces);
            column = tile.column + box * columns + piece * 8;
            inside = row < e.rows ? min(e.columns - column, 8) : 0;
            place = offset(index / pieces, piece);
            is_whole = e.is_aligned && inside == 8;
        }
        DEVICE const bf16* residual() const { return e.residual + row * e.residual_stride + column; }
    };

    /// A thread's parts of the residual of a box, fetched while the box before is packed, or the last products are under way.
    struct Fetched {
        Packed8 rows[parts] = {};

        template <class Rows>
        DEVICE void fetch(const Epilogue& e, const Rows& tile, int box) {
            if (e.residual == nullptr) return;
#pragma unroll
            for (int i = 0; i < parts; i++) {
                const Part part(e, tile, box, i);
                if (part.is_whole) rows[i] = load8(part.residual());
            }
        }
    };

    /// A thread's own parts one after another: unrolled, all the kinds would be most of the kernel.
    template <class Rows>
    DEVICE static void activate_box(const Epilogue& e, const Rows& tile, int box, unsigned char* box_smem) {
#pragma unroll 1
        for (int i = 0; i < parts; i++) {
            const Part part(e, tile, box, i);
            if (part.inside <= 0) continue;
            auto* own = reinterpret_cast<bf16*>(box_smem + part.place);
            float value[8];
            unpack8(load8(own), value);
            activate_rounded(value, e.activation);
            store8(own, pack8(value));
        }
    }

    /// Activation, gate and residual, in place. The gate of a thread's columns is the same in all of its parts, if they are as many columns apart as a box has.
    template <class Rows>
    DEVICE static void finish_box(const Epilogue& e, const Rows& tile, int box, const Fetched& fetched, unsigned char* box_smem) {
        if (e.activation != 0) activate_box(e, tile, box, box_smem);
        if (e.gate == nullptr && e.residual == nullptr) return;
        float gate[8], other[8];
#pragma unroll
        for (int i = 0; i < parts; i++) {
            const Part part(e, tile, box, i);
            const bool has_own_gate = group_threads % pieces != 0 || i == 0;
            if (e.gate != nullptr && has_own_gate) load_part(e.gate + part.column, min(e.columns - part.column, 8), e.is_aligned, gate);
            if (part.inside <= 0) continue;
            auto* own = reinterpret_cast<bf16*>(box_smem + part.place);
            float value[8];
            unpack8(load8(own), value);
            if (e.gate != nullptr) apply_gate(gate, value);
            if (e.residual != nullptr) {
                if (part.is_whole)
                    unpack8(fetched.rows[i], other);
                else
                    load_part(part.residual(), part.inside, e.is_aligned, other);
                add(other, value);
            }
            store8(own, pack8(value));
        }
    }

    /// As many boxes at a time as a tile has, or one.
    template <int tile_columns>
    static constexpr int turn = boxes >= tile_columns / columns ? tile_columns / columns : 1;

    /// What is fetched beside the last products.
    template <int tile_columns>
    struct Early {
        Fetched residual[turn<tile_columns>];

        template <class Rows>
        DEVICE Early(const Epilogue& e, const Rows& tile) {
            fetch(e, tile, 0);
        }
        template <class Rows>
        DEVICE void fetch(const Epilogue& e, const Rows& tile, int box) {
#pragma unroll
            for (int i = 0; i < turn<tile_columns>; i++) residual[i].fetch(e, tile, box + i);
        }
    };

    /// GELU of the sums, where it is all that is left to do, is evaluated where they are: in registers, on their way to the boxes.
    template <bool is_gelu, int now, int count>
    DEVICE static void put_boxes(const float (&sums)[count], const unsigned (&bias)[count / 4], int first_box, unsigned boxes_smem) {
#pragma unroll
        for (int i = 0; i < now; i++) put_sums<columns, is_gelu>(sums, bias, (first_box + i) * columns, boxes_smem + i * box_bytes, offset);
    }

    template <int count, class Rows>
    DEVICE static void store(const float (&sums)[count], const unsigned (&bias)[count / 4], const Epilogue& e, const TensorMap* out, const Rows& tile,
                             Early<count * 2>& early) {
        constexpr int tile_boxes = count * 2 / columns, now = turn<count * 2>;
        // Boxes that go all at once have one place.
        constexpr int turns_left = boxes >= tile_boxes ? 0 : boxes - 1;
        const bool is_first = threadIdx.x % group_threads == 0, is_gelu = is_gelu_alone(e);
#pragma unroll
        for (int box = 0; box < tile_boxes; box += now) {
            unsigned char* boxes_smem = tile.waiting_smem + (boxes >= tile_boxes ? 0 : (tile.half * tile_boxes + box) % boxes * box_bytes);
            if (is_first) bulk_wait_read<turns_left>();
            named_barrier_sync(1 + tile.group, group_threads);
            if (is_gelu)
                put_boxes<true, now>(sums, bias, box, shared_address(boxes_smem));
            else
                put_boxes<false, now>(sums, bias, box, shared_address(boxes_smem));
            if (!is_gelu && is_fused(e)) {
                const Early<count * 2> fetched = early;
                if (box + now < tile_boxes) early.fetch(e, tile, box + now);
                named_barrier_sync(1 + tile.group, group_threads);
#pragma unroll
                for (int i = 0; i < now; i++) finish_box(e, tile, box + i, fetched.residual[i], boxes_smem + i * box_bytes);
            }
            fence_proxy_async();
            named_barrier_sync(1 + tile.group, group_threads);
            if (!is_first) continue;
            for (int i = 0; i < now; i++)
                tile.store(shared_address(boxes_smem) + i * box_bytes, out, tile.column + (box + i) * columns);
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

/// What takes the sums of a cut tile's pieces where no tile is cut.
struct Uncut {
    template <int count>
    DEVICE bool take(const float (&)[count], int) const {
        return false;
    }
};

/// What a consumer does of a tile: its products, then its rows leave, those of one part after those of the other; unless `cut` takes the sums as they are.
template <class Ring, class Store, int columns, class Rows, class Cut = Uncut>
DEVICE void consume_tile(const Epilogue& e, unsigned smem, Turn<Ring>& turn, int steps, const TensorMap* out, const Rows& tile, const Cut& cut = {}) {
    float sums[Ring::halves][columns / 2] = {};
    unsigned bias[columns / 8];
    multiply<Ring>(sums, smem, turn, steps, tile.group);
    load_bias<columns>(e, tile.column, bias);
    typename Store::template Early<columns> early(e, tile);
    finish_sums<Ring>(smem, turn, steps);
    if (cut.take(sums[0], tile.group)) return;
    Store::store(sums[0], bias, e, out, tile, early);
#pragma unroll
    for (int half = 1; half < Ring::halves; half++) {
        const Rows below = tile.below(half);
        early.fetch(e, below, 0);
        Store::store(sums[half], bias, e, out, below, early);
    }
}

}  // namespace product
