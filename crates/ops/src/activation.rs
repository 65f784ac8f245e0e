use lighterage_device::{Backend, View};

use crate::{Queue, Result};

/// The activations of the models, as their reference code computes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationKind {
    /// `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.
    GeluTanh,
    /// `0.5 x (1 + erf(x / sqrt(2)))`.
    Gelu,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
    /// `x sigmoid(x)`.
    Silu,
}

/// An activation of every element.
#[derive(Clone, Copy, Debug)]
pub struct Activation<'a> {
    /// `[rows, columns]` or `[count]`, dense rows.
    pub x: View<'a>,
    /// Which.
    pub kind: ActivationKind,
    /// As `x`; may be `x`.
    pub out: View<'a>,
}

/// See [`Activation`].
pub fn activation<B: Backend>(_queue: &Queue<B>, _args: &Activation<'_>) -> Result<()> {
    todo!()
}
