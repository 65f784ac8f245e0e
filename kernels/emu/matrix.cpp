// ldmatrix, stmatrix and mma.sync: fragments as the PTX ISA lays them out (section "Matrix fragments for mma.m16n8k16").
#include "matrix.hpp"

#include <cstring>

#include "block.hpp"
#include "device.hpp"

namespace emu {

namespace {

constexpr u32 row_bytes = 16;

struct MoveOperand {
    u32* registers;
    u32 address, count;
    bool is_transposed;
};

const MoveOperand& operand(const Meeting& meeting, u32 lane) { return *static_cast<const MoveOperand*>(meeting.operands[lane]); }

/// Rows of one 8 x 8 matrix that lie in the same 16 bytes of the 128 that all banks hold take turns.
u32 extra_passes(const Meeting& meeting, u32 matrix) {
    u32 rows[8] = {}, most = 0;
    for (u32 r = 0; r < 8; r++) most = std::max(most, ++rows[operand(meeting, matrix * 8 + r).address / row_bytes % 8]);
    return most - 1;
}

/// Element `column` of row `row` lives in this lane's register, upper or lower half.
struct Half {
    u32 lane;
    bool is_upper;
};

Half half_of(u32 row, u32 column, bool is_transposed) {
    const u32 r = is_transposed ? column : row, c = is_transposed ? row : column;
    return {r * 4 + c / 2, c % 2 == 1};
}

void check_row(const Meeting& meeting, u32 w, u32 lane, bool is_write, Place place) {
    Block& b = *block;
    const u32 thread = w * warp_lanes + lane, address = operand(meeting, lane).address;
    if (address % row_bytes != 0)
        fail({Kind::Misaligned, thread, place}, "a matrix row at shared+%u: rows are aligned to 16 bytes", address);
    b.shared.check_bounds(address, row_bytes, thread, Manner{.is_write = is_write}, place);
    if (!b.checks()) return;
    const Actor actor = b.clocks.actor(thread);
    b.shared.access(address, row_bytes, actor, actor.stamp, Manner{.is_write = is_write}, place);
}

/// Calls `move(halves in memory, matrix, row)` for each row that the lanes name.
template <class Move>
Next act_rows(u32 w, Meeting& meeting, bool is_write, Place place, Move move) {
    Block& b = *block;
    const u32 count = operand(meeting, 0).count;
    for (u32 m = 0; m < count; m++) {
        b.report.bank_conflicts += extra_passes(meeting, m);
        for (u32 r = 0; r < 8; r++) {
            check_row(meeting, w, m * 8 + r, is_write, place);
            move(b.shared.base() + operand(meeting, m * 8 + r).address, m, r);
        }
    }
    b.report.matrix_loads += count;
    return Next::GoOn;
}

Next act_load(u32 w, Meeting& meeting, Place place) {
    return act_rows(w, meeting, false, place, [&](u8* memory, u32 m, u32 row) {
        u16 values[8];
        std::memcpy(values, memory, sizeof values);
        for (u32 column = 0; column < 8; column++) {
            const Half half = half_of(row, column, operand(meeting, 0).is_transposed);
            u32& target = operand(meeting, half.lane).registers[m];
            target = half.is_upper ? (target & 0xffffu) | u32{values[column]} << 16 : (target & 0xffff0000u) | values[column];
        }
    });
}

Next act_store(u32 w, Meeting& meeting, Place place) {
    return act_rows(w, meeting, true, place, [&](u8* memory, u32 m, u32 row) {
        u16 values[8];
        for (u32 column = 0; column < 8; column++) {
            const Half half = half_of(row, column, operand(meeting, 0).is_transposed);
            const u32 source = operand(meeting, half.lane).registers[m];
            values[column] = static_cast<u16>(half.is_upper ? source >> 16 : source);
        }
        std::memcpy(memory, values, sizeof values);
    });
}

struct ProductOperand {
    float* d;
    const u32* a;
    const u32* b;
};

float low(u32 pair) { return bits<float>(pair << 16); }
float high(u32 pair) { return bits<float>(pair & 0xffff0000u); }

/// The three matrices of one product, gathered from the lanes.
struct Tiles {
    float a[16][16], b[16][8], d[16][8];
};

void gather(Tiles& tiles, const Meeting& meeting) {
    for (u32 lane = 0; lane < warp_lanes; lane++) {
        const auto& o = *static_cast<const ProductOperand*>(meeting.operands[lane]);
        const u32 group = lane / 4, pair = lane % 4 * 2;
        for (u32 i = 0; i < 4; i++) {
            const u32 row = group + i % 2 * 8, column = pair + i / 2 * 8;
            tiles.a[row][column] = low(o.a[i]);
            tiles.a[row][column + 1] = high(o.a[i]);
            tiles.d[group + i / 2 * 8][pair + i % 2] = o.d[i];
        }
        for (u32 i = 0; i < 2; i++) {
            tiles.b[pair + i * 8][group] = low(o.b[i]);
            tiles.b[pair + i * 8 + 1][group] = high(o.b[i]);
        }
    }
}

void scatter(const Tiles& tiles, const Meeting& meeting) {
    for (u32 lane = 0; lane < warp_lanes; lane++) {
        const auto& o = *static_cast<const ProductOperand*>(meeting.operands[lane]);
        for (u32 i = 0; i < 4; i++) o.d[i] = tiles.d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
}

/// Products of bf16 are exact in fp32; the sum is taken over k in order. The device's order within an instruction is not documented.
void multiply(Tiles& tiles) {
    for (u32 row = 0; row < 16; row++)
        for (u32 k = 0; k < 16; k++)
            for (u32 column = 0; column < 8; column++) tiles.d[row][column] += tiles.a[row][k] * tiles.b[k][column];
}

Next act_product(u32, Meeting& meeting, Place) {
    Tiles tiles;
    gather(tiles, meeting);
    multiply(tiles);
    scatter(tiles, meeting);
    block->report.matrix_products++;
    return Next::GoOn;
}

}  // namespace

void matrix_load(u32* registers, u32 row_address, u32 count, bool is_transposed) {
    const MoveOperand o{registers, row_address, count, is_transposed};
    meet(Op::MatrixLoad, all_lanes, &o, __builtin_return_address(0), act_load);
}

void matrix_store(u32 row_address, const u32* registers, u32 count, bool is_transposed) {
    const MoveOperand o{const_cast<u32*>(registers), row_address, count, is_transposed};
    meet(Op::MatrixStore, all_lanes, &o, __builtin_return_address(0), act_store);
}

void product_16816(float* d, const u32* a, const u32* b) {
    const ProductOperand o{d, a, b};
    meet(Op::Product, all_lanes, &o, __builtin_return_address(0), act_product);
}

}  // namespace emu
