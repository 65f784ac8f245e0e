use lighterage_device::{Backend, View};

use crate::{Queue, Result};

/// `out = gelu_tanh(gate half) * linear half` of one fused projection.
#[derive(Clone, Copy, Debug)]
pub struct Geglu<'a> {
    /// `[rows, 2 columns]`, dense rows; the gated half first.
    pub x: View<'a>,
    /// `[rows, columns]`, dense rows.
    pub out: View<'a>,
}

/// See [`Geglu`].
pub fn geglu<B: Backend>(_queue: &Queue<B>, _args: &Geglu<'_>) -> Result<()> {
    todo!()
}
