use lighterage_device::{Backend, View};

use crate::{Queue, Result};

/// Norm weights of q and k, `[head_dim]` each.
#[derive(Clone, Copy, Debug)]
pub struct QkWeights<'a> {
    /// Of q.
    pub q: View<'a>,
    /// Of k.
    pub k: View<'a>,
}

/// RMSNorm of each head of q and k, then rotation of adjacent pairs, in place.
#[derive(Clone, Copy, Debug)]
pub struct QkNormRope<'a> {
    /// `[rows, heads, head_dim]`, dense along head_dim.
    pub q: View<'a>,
    /// `[rows, heads, head_dim]`, dense along head_dim.
    pub k: View<'a>,
    /// First row of the second range; 0: all rows are of the second.
    pub split: usize,
    /// For rows below `split` (text).
    pub first: QkWeights<'a>,
    /// For rows from `split` on (image).
    pub second: QkWeights<'a>,
    /// f32 `[rows, head_dim / 2]`, contiguous.
    pub cos: View<'a>,
    /// f32 `[rows, head_dim / 2]`, contiguous.
    pub sin: View<'a>,
    /// Added to the mean square.
    pub eps: f32,
}

/// See [`QkNormRope`].
pub fn qk_norm_rope<B: Backend>(_queue: &Queue<B>, _args: &QkNormRope<'_>) -> Result<()> {
    todo!()
}
