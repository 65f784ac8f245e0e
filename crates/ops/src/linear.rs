use lighterage_device::{Backend, View};

use crate::{Queue, Result};

use crate::ActivationKind;

/// What a linear adds to: `x + gate * y`.
#[derive(Clone, Copy, Debug)]
pub struct Residual<'a> {
    /// `[rows, columns]`, dense rows.
    pub x: View<'a>,
    /// `[columns]`; none is 1.
    pub gate: Option<View<'a>>,
}

/// `out = residual + gate * activation(x weight^T + bias)`, accumulated in f32, rounded once.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// `[rows, inner]`, dense rows.
    pub x: View<'a>,
    /// `[columns, inner]`, dense rows.
    pub weight: View<'a>,
    /// `[columns]`.
    pub bias: Option<View<'a>>,
    /// Applied after the bias.
    pub activation: Option<ActivationKind>,
    /// Added last.
    pub residual: Option<Residual<'a>>,
    /// `[rows, columns]`, dense rows; may be the residual's view, nothing else.
    pub out: View<'a>,
}

/// See [`Linear`].
pub fn linear<B: Backend>(_queue: &Queue<B>, _args: &Linear<'_>) -> Result<()> {
    todo!()
}
