//! How `qk_norm_rope.cu` is launched.

use crate::launch::{Grid, Launch, Launches, Target};
use crate::params::QkNormRopeParams;

/// One block of 256 threads a row, on every architecture; the image is that of the head's size.
#[must_use]
pub fn launches(params: &QkNormRopeParams, _target: Target) -> Launches {
    let image = match params.head_dim {
        16 => "qk_norm_rope_d16_bf16",
        32 => "qk_norm_rope_d32_bf16",
        64 => "qk_norm_rope_d64_bf16",
        128 => "qk_norm_rope_d128_bf16",
        256 => "qk_norm_rope_d256_bf16",
        _ => "qk_norm_rope_any_bf16",
    };
    Launches::of(&[Launch::new(image, Grid::line(params.rows.max(1), 256))])
}
