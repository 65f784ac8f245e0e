//! How `transpose.cu` is launched.

use crate::launch::{Grid, Launch, Launches, Target};
use crate::params::TransposeParams;

/// A block for 64 x 64 elements, on every architecture.
#[must_use]
pub fn launches(params: &TransposeParams, _target: Target) -> Launches {
    let blocks = [params.columns.div_ceil(64), params.rows.div_ceil(64), 1];
    Launches::of(&[Launch::new("transpose_bf16", Grid { blocks, threads: 256, shared_bytes: 0 })])
}
