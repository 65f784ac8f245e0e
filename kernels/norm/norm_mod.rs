//! How `norm_mod.cu` is launched.

use crate::launch::{Grid, Launch, Launches, Target};
use crate::params::NormModParams;

/// One warp a row, 4 warps a block, on every architecture; the image is the one whose registers hold the row.
#[must_use]
pub fn launches(params: &NormModParams, _target: Target) -> Launches {
    let image = match params.columns {
        0..=512 => "norm_mod_2_bf16",
        513..=1024 => "norm_mod_4_bf16",
        1025..=2048 => "norm_mod_8_bf16",
        2049..=3072 => "norm_mod_12_bf16",
        3073..=4096 => "norm_mod_16_bf16",
        _ => "norm_mod_wide_bf16",
    };
    Launches::of(&[Launch::new(image, Grid::line(params.rows.div_ceil(4).max(1), 128))])
}
