//! How `rms_norm.cu` is launched.

use crate::launch::{Grid, Launch, Launches, Target};
use crate::params::RmsNormParams;

/// One warp a row, 4 warps a block, on every architecture.
#[must_use]
pub fn launches(params: &RmsNormParams, _target: Target) -> Launches {
    Launches::of(&[Launch::new("rms_norm_bf16", Grid::line(params.rows.div_ceil(4).max(1), 128))])
}
