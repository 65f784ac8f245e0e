//! How `mean_abs_diff.cu` is launched, and the workspace it needs.

use crate::launch::{Grid, Launch, Launches, Target};
use crate::params::MeanAbsDiffParams;

/// Elements of one partial sum: 256 threads, eight times eight each.
const BLOCK_ELEMENTS: u32 = 16_384;

/// Numbers (f32) that the partial sums of so many elements take.
///
/// ```
/// use lighterage_kernels::elementwise::mean_abs_diff::workspace;
/// assert_eq!(workspace(16_385), 4);
/// ```
#[must_use]
pub const fn workspace(count: usize) -> usize {
    2 * count.div_ceil(BLOCK_ELEMENTS as usize)
}

/// Partial sums of fixed blocks of elements, then their sum by one block, on every architecture.
#[must_use]
pub fn launches(params: &MeanAbsDiffParams, _target: Target) -> Launches {
    let blocks = params.count.div_ceil(BLOCK_ELEMENTS).max(1);
    Launches::of(&[
        Launch::new("mean_abs_diff_partial_bf16", Grid::line(blocks, 256)),
        Launch::new("mean_abs_diff_finish", Grid::line(1, 256)),
    ])
}
