//! How `layer_norm.cu` is launched.

use crate::launch::{Grid, Launch, Launches, Target};
use crate::params::LayerNormParams;

/// One warp a row, 4 warps a block, on every architecture; the image is the one whose registers hold the row.
#[must_use]
pub fn launches(params: &LayerNormParams, _target: Target) -> Launches {
    let image = match params.columns {
        0..=1024 => "layer_norm_4_bf16",
        1025..=2048 => "layer_norm_8_bf16",
        2049..=4096 => "layer_norm_16_bf16",
        _ => "layer_norm_wide_bf16",
    };
    Launches::of(&[Launch::new(image, Grid::line(params.rows.div_ceil(4).max(1), 128))])
}
