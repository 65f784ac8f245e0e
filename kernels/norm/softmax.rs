//! How `softmax.cu` is launched.

use crate::launch::{Grid, Launch, Launches, Target};
use crate::params::SoftmaxParams;

/// bf16 to bf16: a block a row, on every architecture.
#[must_use]
pub fn launches(params: &SoftmaxParams, _target: Target) -> Launches {
    Launches::of(&[Launch::new("softmax_bf16", Grid::line(params.rows, 256))])
}

/// f32 to bf16: the same.
#[must_use]
pub fn launches_from_f32(params: &SoftmaxParams, _target: Target) -> Launches {
    Launches::of(&[Launch::new("softmax_f32_bf16", Grid::line(params.rows, 256))])
}
