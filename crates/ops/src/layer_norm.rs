use lighterage_device::{Backend, View};

use crate::{Queue, Result};

/// `out = (x - mean) * rsqrt(var + eps) * weight + bias`, by rows.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// `[rows, columns]`, dense rows.
    pub x: View<'a>,
    /// `[columns]`.
    pub weight: View<'a>,
    /// `[columns]`.
    pub bias: View<'a>,
    /// Added to the variance.
    pub eps: f32,
    /// `[rows, columns]`; may be `x`.
    pub out: View<'a>,
}

/// See [`LayerNorm`].
pub fn layer_norm<B: Backend>(_queue: &Queue<B>, _args: &LayerNorm<'_>) -> Result<()> {
    todo!()
}
