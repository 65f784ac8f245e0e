//! How `layer_norm.cu` is launched.

use super::rows::{Exact, image};
use crate::launch::{Grid, Launch, Launches, Target};
use crate::params::LayerNormParams;

const EXACT: [Exact; 3] = [
    Exact { columns: 768, threads: 96, image: "layer_norm_768_bf16" },
    Exact { columns: 1024, threads: 128, image: "layer_norm_1024_bf16" },
    Exact { columns: 3072, threads: 128, image: "layer_norm_3072_bf16" },
];

/// A block a row, on every architecture; images for the widths of models, and one for any other row.
#[must_use]
pub fn launches(params: &LayerNormParams, target: Target) -> Launches {
    let p = params;
    let addresses = [p.x, p.weight, p.bias, p.out, 2 * p.x_stride, 2 * p.out_stride];
    let (image, threads) = image(&EXACT, "layer_norm_any_bf16", p.columns, &addresses);
    Launches::of(&[Launch::new(image, Grid::line(p.rows.max(1), threads)).overlapping(target)])
}
