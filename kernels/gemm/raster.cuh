// The order in which blocks take the tiles of out: neighbours in time share rows of x and of weight, so that both come from L2.
#pragma once
#include "../base/cuda.cuh"

namespace product {

/// A tile's place, counted in tiles.
struct TilePlace {
    int row, column;
};

/// Tile `index` of down x across. Strips of at most 16 tiles down, all of nearly the same height, are swept column after column: the blocks that run at one time (up to 264)
/// form a patch of 16 x 16 tiles, which needs the fewest bytes of both operands.
DEVICE TilePlace tile_place(int index, int down, int across) {
    const int strips = (down + 15) / 16, height = (down + strips - 1) / strips;
    const int strip = index / (height * across), first = strip * height;
    const int own_height = min(height, down - first), inside = index - first * across;
    return {first + inside % own_height, inside / own_height};
}

}  // namespace product
