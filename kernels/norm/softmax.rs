//! How `softmax.cu` is launched.

use crate::launch::{Grid, Launch, Launches, Target};
use crate::params::SoftmaxParams;

/// Columns of rows that a block holds in registers; fewer are too few for its threads.
const HELD: std::ops::RangeInclusive<u32> = 4097..=16_384;

/// bf16 to bf16: a block a row, on every architecture.
#[must_use]
pub fn launches(params: &SoftmaxParams, target: Target) -> Launches {
    launch(params, target, 2, ["softmax_bf16", "softmax_held_bf16"])
}

/// f32 to bf16: the same.
#[must_use]
pub fn launches_from_f32(params: &SoftmaxParams, target: Target) -> Launches {
    launch(params, target, 4, ["softmax_f32_bf16", "softmax_held_f32_bf16"])
}

/// By the second image where rows are long, of whole eights, and at multiples of 16 bytes.
fn launch(p: &SoftmaxParams, target: Target, element_bytes: u64, [any, held]: [&'static str; 2]) -> Launches {
    let addresses = [p.x, p.out, element_bytes * p.x_stride, 2 * p.out_stride];
    let is_held = HELD.contains(&p.columns)
        && p.columns.is_multiple_of(8)
        && addresses.iter().all(|address| address.is_multiple_of(16));
    let (image, threads) = if is_held { (held, 512) } else { (any, 256) };
    Launches::of(&[Launch::new(image, Grid::line(p.rows, threads)).overlapping(target)])
}
