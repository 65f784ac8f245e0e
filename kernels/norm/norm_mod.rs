//! How `norm_mod.cu` is launched.

use super::rows::{Exact, image};
use crate::launch::{Grid, Launch, Launches, Target};
use crate::params::NormModParams;

const PLAIN: [Exact; 1] = [Exact { columns: 3072, threads: 128, image: "norm_mod_3072_bf16" }];
const UPDATES: [Exact; 1] = [Exact { columns: 3072, threads: 128, image: "norm_mod_update_3072_bf16" }];

/// A block a row, on every architecture; images for the widths of models, with and without update, and one for any other row. All wait by
/// themselves for the launch before, and begin while it ends where a card can do that.
#[must_use]
pub fn launches(params: &NormModParams, target: Target) -> Launches {
    let p = params;
    let vectors = [p.first_shift, p.first_scale, p.second_shift, p.second_scale, p.first_gate, p.second_gate];
    let rows = [p.x, p.out, p.y, 2 * p.x_stride, 2 * p.out_stride, if p.y == 0 { 0 } else { 2 * p.y_stride }];
    let addresses = [vectors, rows].concat();
    let (image, threads) = if p.y == 0 {
        image(&PLAIN, "norm_mod_any_bf16", p.columns, &addresses)
    } else {
        image(&UPDATES, "norm_mod_update_any_bf16", p.columns, &addresses)
    };
    Launches::of(&[Launch::new(image, Grid::line(p.rows.max(1), threads)).overlapping(target)])
}
