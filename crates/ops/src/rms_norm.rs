use lighterage_device::{Backend, View};

use crate::{Queue, Result};

/// `out = x * rsqrt(mean(x^2) + eps) * weight`, by rows.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm<'a> {
    /// `[rows, columns]`, dense rows.
    pub x: View<'a>,
    /// `[columns]`.
    pub weight: View<'a>,
    /// Added to the mean square.
    pub eps: f32,
    /// `[rows, columns]`; may be `x`.
    pub out: View<'a>,
}

/// See [`RmsNorm`].
pub fn rms_norm<B: Backend>(_queue: &Queue<B>, _args: &RmsNorm<'_>) -> Result<()> {
    todo!()
}
