// The work of attention_sm90a in tiles of queries and blocks of keys, and where the sums of pieces lie.
// attention_sm90a.rs computes the same numbers.
#pragma once
#include "attention.h"

#include "../base/pieces.cuh"

constexpr int tile_queries = 128, block_keys = 128;

/// What cutting costs, in blocks of keys: writing the sums and joining them. Not cut unless it saves more.
constexpr int cut_cost_blocks = 6;

/// What one slot holds: 128 x 128 sums in the order of the registers that hold them, 128 largest scores, 128 sums of exponentials.
constexpr int piece_floats = tile_queries * 128 + 2 * tile_queries;

/// The workspace begins with the number of blocks that made the pieces: who joins them has another grid.
constexpr unsigned workspace_header_bytes = 256;

DEVICE unsigned* workspace_grid(const AttentionParams& p) { return reinterpret_cast<unsigned*>(p.workspace); }

DEVICE float* piece_sums(const AttentionParams& p, int slot) {
    return reinterpret_cast<float*>(p.workspace + workspace_header_bytes) + static_cast<uint64_t>(slot) * piece_floats;
}

/// All products stay under 2^31: `workspace_bytes` is 0 where they would not, and nothing is cut then.
struct Schedule : Pieces {
    int query_tiles;

    DEVICE Schedule(const AttentionParams& p, unsigned grid_size) {
        grid = static_cast<int>(grid_size);
        query_tiles = static_cast<int>((p.queries + tile_queries - 1) / tile_queries);
        units_each = static_cast<int>((p.keys + block_keys - 1) / block_keys);
        tiles = query_tiles * static_cast<int>(p.heads);
        const int left = tiles % grid;
        const bool is_cut = p.workspace != 0 && left != 0 && units_each * (grid - left) > cut_cost_blocks * grid;
        whole = is_cut ? tiles - left : tiles;
    }

    DEVICE int head_of(int tile) const { return tile / query_tiles; }
    DEVICE int query_of(int tile) const { return tile % query_tiles * tile_queries; }
};
