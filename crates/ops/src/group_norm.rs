use lighterage_device::{Backend, View};

use crate::{Queue, Result};

use crate::ActivationKind;

/// Group normalisation of one channels-last image, with SiLU after it if asked.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm<'a> {
    /// `[pixels, channels]` or `[height, width, channels]`, contiguous.
    pub x: View<'a>,
    /// `[channels]`.
    pub weight: View<'a>,
    /// `[channels]`.
    pub bias: View<'a>,
    /// Divides the channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// None or SiLU.
    pub activation: Option<ActivationKind>,
    /// As `x`; may be `x`.
    pub out: View<'a>,
}

/// See [`GroupNorm`].
pub fn group_norm<B: Backend>(_queue: &Queue<B>, _args: &GroupNorm<'_>) -> Result<()> {
    todo!()
}
