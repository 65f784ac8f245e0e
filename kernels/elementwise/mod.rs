//! Launches of the elementwise kernels, and of the others that share their tiles.

pub mod activation;
pub mod add;
pub mod cast;
pub mod embedding;
pub mod euler_step;
pub mod geglu;
pub mod mean_abs_diff;
pub mod patchify;
pub mod sinusoid;
pub mod unpatchify;

use crate::launch::Grid;

/// Threads of a block, and the most eights of columns that it takes of a row.
const THREADS: u32 = 256;

/// Most blocks in y (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
const HEIGHT_MAX: u32 = 65_535;

/// Eights that a block takes of a row: `tile_lanes` of `kernels/base/tile.cuh`.
pub(crate) fn lanes(columns: u32) -> u32 {
    columns.div_ceil(8).clamp(1, THREADS).next_power_of_two()
}

/// The grid of `for_eights` in `kernels/base/tile.cuh` over a matrix: one thread for each eight of columns, but for more rows than a grid can count.
pub(crate) fn grid(rows: u32, columns: u32) -> Grid {
    let lanes = lanes(columns);
    let (width, height) = (columns.div_ceil(8).div_ceil(lanes), rows.div_ceil(THREADS / lanes));
    Grid { blocks: [width.max(1), height.clamp(1, HEIGHT_MAX), 1], threads: THREADS, shared_bytes: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_eight_has_a_thread() {
        let cases = [
            ((1, 1), [1, 1]),
            ((4112, 3072), [2, 4112]),
            // 64 columns are 8 lanes, so 32 rows a block.
            ((4096, 64), [1, 128]),
            // 2049 columns are 257 eights.
            ((3, 2049), [2, 3]),
            ((1, u32::MAX), [2_097_152, 1]),
            ((1 << 24, 2048), [1, HEIGHT_MAX]),
            ((0, 0), [1, 1]),
        ];
        for ((rows, columns), [width, height]) in cases {
            assert_eq!(grid(rows, columns).blocks, [width, height, 1], "{rows} rows of {columns}");
        }
    }
}
