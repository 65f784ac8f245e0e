// The order in which blocks take the tiles of out: neighbours in time share rows of x and of weight, so that both come from L2.
#pragma once
#include "../base/cuda.cuh"

namespace product {

/// A tile's place, counted in tiles.
struct TilePlace {
    int row, column;
};

/// Tile `index` of down x across. Strips of at most `strip_max` tiles down, all of nearly the same height, are swept column after column: the blocks that run at one time
/// (up to 264) form a patch of 16 x 16 tiles, which needs the fewest bytes of both operands.
DEVICE TilePlace tile_place(int index, int down, int across, int strip_max = 16) {
    const int strips = (down + strip_max - 1) / strip_max, height = (down + strips - 1) / strips;
    const int strip = index / (height * across), first = strip * height;
    const int own_height = min(height, down - first), inside = index - first * across;
    return {first + inside % own_height, inside / own_height};
}

/// Two neighbouring tiles, of two blocks that run together: one above the other, both with the same rows of weight, or side by side, both with the same rows of x.
struct PairPlace {
    TilePlace first;
    bool is_across;

    /// The tile of block `rank`; it may lie beyond the last column.
    DEVICE TilePlace tile(int rank) const { return {first.row + (is_across ? 0 : rank), first.column + (is_across ? rank : 0)}; }
};

/// How many pairs down x across tiles are. Pairs stand one above the other, which shares the wider operand; of an odd number of rows the last one lies in pairs side by side, so
/// that no block is without a tile but the last of an odd number of those.
DEVICE int pairs_of(int down, int across) { return down / 2 * across + down % 2 * ((across + 1) / 2); }

/// Pair `index`: as tile_place, in strips of at most 8 pairs down. The odd row belongs to the last strip, which is swept by two columns at a time: both columns' pairs, then the
/// odd row's, while the weight is still in L2.
DEVICE PairPlace pair_place(int index, int down, int across) {
    constexpr int strip_max = 8;
    const int pairs = down / 2, strips = (pairs + strip_max - 1) / strip_max;
    const int height = strips == 0 ? 0 : (pairs + strips - 1) / strips;
    const int before = strips == 0 ? 0 : (strips - 1) * height, inside = index - before * across;
    if (down % 2 == 0 || inside < 0) {
        const TilePlace place = tile_place(index, pairs, across, strip_max);
        return {{place.row * 2, place.column}, false};
    }
    const int own = pairs - before, turn = 2 * own + 1, column = inside / turn * 2, left = inside % turn;
    const int columns = min(across - column, 2);
    if (left < columns * own) return {{(before + left % own) * 2, column + left / own}, false};
    return {{down - 1, column}, true};
}

}  // namespace product
