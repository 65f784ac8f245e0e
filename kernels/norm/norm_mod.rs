//! How `norm_mod.cu` is launched.

use super::rows::{Exact, image};
use crate::launch::{Arch, Grid, Launch, Launches, Target};
use crate::params::NormModParams;

const PLAIN: [Exact; 1] = [Exact { columns: 3072, threads: 128, image: "norm_mod_3072_bf16" }];
const UPDATES: [Exact; 1] = [Exact { columns: 3072, threads: 128, image: "norm_mod_update_3072_bf16" }];
const WARP: Exact = Exact { columns: 3072, threads: 32, image: "norm_mod_sm90a_warp_3072_bf16" };
const WARP_UPDATES: Exact =
    Exact { columns: 3072, threads: 32, image: "norm_mod_sm90a_warp_update_3072_bf16" };

/// A block a row, on every architecture; images for the widths of models, with and without update, and one for any other row. All wait by
/// themselves for the launch before, and begin while it ends where a card can do that.
#[must_use]
pub fn launches(params: &NormModParams, target: Target) -> Launches {
    let (exact, any) =
        if params.y == 0 { (&PLAIN, "norm_mod_any_bf16") } else { (&UPDATES, "norm_mod_update_any_bf16") };
    let (image, threads) = image(exact, any, params.columns, &addresses(params));
    Launches::of(&[Launch::new(image, Grid::line(params.rows.max(1), threads)).overlapping(target)])
}

/// A warp a row, on Hopper; none for rows of another width or at other addresses than multiples of 16. No GPU has run it yet: whoever measures tries it, and
/// [`launches`] does not choose it. It adds in another order, so the last bits differ.
///
/// ```
/// use lighterage_kernels::launch::{Arch, Target};
/// use lighterage_kernels::norm::norm_mod::launches_by_warps;
/// use lighterage_kernels::params::NormModParams;
/// let params = NormModParams { rows: 4608, columns: 3072, ..NormModParams::default() };
/// let launches = launches_by_warps(&params, Target::typical(Arch::Sm90a));
/// assert_eq!(launches.as_slice()[0].grid.threads, 32);
/// assert!(launches_by_warps(&params, Target::typical(Arch::Sm89)).as_slice().is_empty());
/// ```
#[must_use]
pub fn launches_by_warps(params: &NormModParams, target: Target) -> Launches {
    let exact = if params.y == 0 { WARP } else { WARP_UPDATES };
    if target.arch != Arch::Sm90a || !exact.does(params.columns, &addresses(params)) {
        return Launches::NONE;
    }
    let grid = Grid::line(params.rows.max(1), exact.threads);
    Launches::of(&[Launch::new(exact.image, grid).overlapping(target)])
}

/// Those of vectors and rows, and what lies between rows, in bytes.
fn addresses(p: &NormModParams) -> Vec<u64> {
    let vectors = [p.first_shift, p.first_scale, p.second_shift, p.second_scale, p.first_gate, p.second_gate];
    let rows = [p.x, p.out, p.y, 2 * p.x_stride, 2 * p.out_stride, if p.y == 0 { 0 } else { 2 * p.y_stride }];
    [vectors, rows].concat()
}
