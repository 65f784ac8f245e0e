//! How `cast.cu` is launched.

use crate::elementwise::grid;
use crate::launch::{Launch, Launches, Target};
use crate::params::CastParams;

/// Eight elements a thread, on every architecture; every pair of element types has an image.
#[must_use]
pub fn launches(params: &CastParams, _target: Target) -> Launches {
    let image = match (params.from_bits, params.to_bits) {
        (32, 32) => "cast_f32_f32",
        (32, _) => "cast_f32_bf16",
        (_, 32) => "cast_bf16_f32",
        _ => "cast_bf16_bf16",
    };
    Launches::of(&[Launch::new(image, grid(1, params.count))])
}
