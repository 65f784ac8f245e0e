//! How `rms_norm.cu` is launched.

use super::rows::{Exact, image};
use crate::launch::{Grid, Launch, Launches, Target};
use crate::params::RmsNormParams;

const EXACT: [Exact; 1] = [Exact { columns: 4096, threads: 256, image: "rms_norm_4096_bf16" }];

/// A block a row, on every architecture; an image for T5-XXL's width, and one for any other row.
#[must_use]
pub fn launches(params: &RmsNormParams, target: Target) -> Launches {
    let p = params;
    let addresses = [p.x, p.weight, p.out, 2 * p.x_stride, 2 * p.out_stride];
    let (image, threads) = image(&EXACT, "rms_norm_any_bf16", p.columns, &addresses);
    Launches::of(&[Launch::new(image, Grid::line(p.rows.max(1), threads)).overlapping(target)])
}
