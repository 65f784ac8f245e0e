//! How `transpose.cu` is launched.

use crate::launch::{Grid, Launch, Launches, Target};
use crate::params::TransposeParams;

/// Rows of a block.
const TILE: u32 = 64;

/// Rows that a call can have: a grid has 65535 blocks in y (CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability").
pub const ROWS_MAX: u32 = 65_535 * TILE;

/// A block for 64 x 64 elements, on every architecture.
#[must_use]
pub fn launches(params: &TransposeParams, _target: Target) -> Launches {
    let blocks = [params.columns.div_ceil(TILE), params.rows.div_ceil(TILE), 1];
    Launches::of(&[Launch::new("transpose_bf16", Grid { blocks, threads: 256, shared_bytes: 0 })])
}
