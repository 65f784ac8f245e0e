use lighterage_device::{Backend, View};

use crate::{Queue, Result};

/// Shift and scale of one row range, `[columns]` each.
#[derive(Clone, Copy, Debug)]
pub struct Modulation<'a> {
    /// Added.
    pub shift: View<'a>,
    /// 1 + scale is the factor.
    pub scale: View<'a>,
}

/// `x += gate * y`.
#[derive(Clone, Copy, Debug)]
pub struct GatedUpdate<'a> {
    /// `[rows, columns]`, dense rows.
    pub y: View<'a>,
    /// `[columns]`, for rows below `split`.
    pub first_gate: View<'a>,
    /// `[columns]`, for rows from `split` on.
    pub second_gate: View<'a>,
}

/// AdaLN: `x += gate * y` where an update is given, then `out = LayerNorm(x) * (1 + scale) + shift`, over two row ranges.
#[derive(Clone, Copy, Debug)]
pub struct NormMod<'a> {
    /// `[rows, columns]`, dense rows; written where `update` is given.
    pub x: View<'a>,
    /// `[rows, columns]`, dense rows; overlaps nothing.
    pub out: View<'a>,
    /// Added to x first.
    pub update: Option<GatedUpdate<'a>>,
    /// First row of the second range; 0: all rows are of the second.
    pub split: usize,
    /// For rows below `split` (text).
    pub first: Modulation<'a>,
    /// For rows from `split` on (image).
    pub second: Modulation<'a>,
    /// Added to the variance.
    pub eps: f32,
}

/// See [`NormMod`].
pub fn norm_mod<B: Backend>(_queue: &Queue<B>, _args: &NormMod<'_>) -> Result<()> {
    todo!()
}
