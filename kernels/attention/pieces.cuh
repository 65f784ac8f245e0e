// Which part of the work each block of attention_sm90a does: whole tiles round by round, then the tiles that are left, cut into equal runs of key blocks.
// attention_sm90a.rs computes the same numbers.
#pragma once
#include "attention.h"

#include "../base/cuda.cuh"

constexpr int tile_queries = 128, block_keys = 128;

/// What cutting costs, in blocks of keys: writing the sums and joining them. Not cut unless it saves more.
constexpr int cut_cost_blocks = 6;

/// One tile, or a run of its key blocks.
struct Piece {
    int tile, first, end;
    /// Where its sums go; -1: it is a whole tile.
    int slot;
};

/// What one slot holds: 128 x 128 sums in the order of the registers that hold them, 128 largest scores, 128 sums of exponentials.
constexpr int piece_floats = tile_queries * 128 + 2 * tile_queries;

/// The workspace begins with the number of blocks that made the pieces: who joins them has another grid.
constexpr unsigned workspace_header_bytes = 256;

DEVICE unsigned* workspace_grid(const AttentionParams& p) { return reinterpret_cast<unsigned*>(p.workspace); }

DEVICE float* piece_sums(const AttentionParams& p, int slot) {
    return reinterpret_cast<float*>(p.workspace + workspace_header_bytes) + static_cast<uint64_t>(slot) * piece_floats;
}

/// All products below stay under 2^31: `workspace_bytes` is 0 where they would not, and nothing is cut then.
struct Schedule {
    int query_tiles, blocks, grid;
    /// Tiles, and how many of them are not cut.
    int tiles, whole;

    DEVICE Schedule(const AttentionParams& p, unsigned grid_size) {
        grid = static_cast<int>(grid_size);
        query_tiles = static_cast<int>((p.queries + tile_queries - 1) / tile_queries);
        blocks = static_cast<int>((p.keys + block_keys - 1) / block_keys);
        tiles = query_tiles * static_cast<int>(p.heads);
        const int left = tiles % grid;
        const bool is_cut = p.workspace != 0 && left != 0 && blocks * (grid - left) > cut_cost_blocks * grid;
        whole = is_cut ? tiles - left : tiles;
    }

    DEVICE int head_of(int tile) const { return tile / query_tiles; }
    DEVICE int query_of(int tile) const { return tile % query_tiles * tile_queries; }

    /// Key blocks of all cut tiles, and the first of them that block `index` of the grid does.
    DEVICE int units() const { return (tiles - whole) * blocks; }
    DEVICE int first_unit(int index) const { return units() * index / grid; }

    /// The `i`-th piece of work of block `index`; false behind the last.
    DEVICE bool piece(Piece& piece, int i, int index) const {
        const int tile = i * grid + index;
        if (tile < whole) {
            piece = {tile, 0, blocks, -1};
            return true;
        }
        if (whole == tiles) return false;
        const int begin = first_unit(index), end = first_unit(index + 1), cut = begin / blocks + i - whole / grid;
        piece = {whole + cut, max(begin - cut * blocks, 0), min(end - cut * blocks, blocks), index + cut};
        return piece.first < piece.end;
    }

    /// Blocks follow each other along the key blocks of the cut tiles, and so do their slots: the number of the block and that of the tile.
    DEVICE int block_with(int unit) const { return ((unit + 1) * grid + units() - 1) / units() - 1; }
    DEVICE int first_slot(int cut) const { return block_with(cut * blocks) + cut; }
    DEVICE int end_slot(int cut) const { return block_with((cut + 1) * blocks - 1) + cut + 1; }
};
