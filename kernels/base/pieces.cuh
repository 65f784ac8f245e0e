// Work that does not divide evenly, shared out so that everybody ends at the same time: whole tiles round by round, then the tiles that are left, cut
// along their units (blocks of keys, stages of a product) into equal consecutive runs, one a block (stream-K, Osama et al. 2023).
//
// A run covers parts of one tile or two; each part is a piece with a slot of its own for its sums. Sizes and the number of blocks alone decide that,
// so adding up a tile's pieces in the order of their slots gives the same bits every run.
#pragma once
#include "cuda.cuh"

/// One tile, or a part of its units.
struct Piece {
    int tile, first, end;
    /// Where its sums go; -1: it is a whole tile.
    int slot;
};

/// All products below have to stay under 2^31.
struct Pieces {
    /// Units of a tile, and blocks that share the work.
    int units_each, grid;
    /// Tiles, and how many of them are not cut: a multiple of `grid`, unless nothing is cut.
    int tiles, whole;

    /// The `i`-th piece of work of block `index`; false behind the last.
    DEVICE bool piece(Piece& piece, int i, int index) const {
        const int tile = i * grid + index;
        if (tile < whole) {
            piece = {tile, 0, units_each, -1};
            return true;
        }
        if (whole == tiles) return false;
        const int begin = first_unit(index), end = first_unit(index + 1), cut = begin / units_each + i - whole / grid;
        piece = {whole + cut, max(begin - cut * units_each, 0), min(end - cut * units_each, units_each), index + cut};
        return piece.first < piece.end;
    }

    /// Slots of a cut tile, the `cut`-th: from `first_slot` to before `end_slot`. Blocks follow each other along the units of the cut tiles, and so do their
    /// slots: the number of the block and that of the tile.
    DEVICE int first_slot(int cut) const { return block_with(cut * units_each) + cut; }
    DEVICE int end_slot(int cut) const { return block_with((cut + 1) * units_each - 1) + cut + 1; }

private:
    /// Units of all cut tiles, the first of them that block `index` does, and the block that does one.
    DEVICE int units() const { return (tiles - whole) * units_each; }
    DEVICE int first_unit(int index) const { return units() * index / grid; }
    DEVICE int block_with(int unit) const { return ((unit + 1) * grid + units() - 1) / units() - 1; }
};
