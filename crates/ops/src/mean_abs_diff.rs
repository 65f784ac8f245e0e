use lighterage_device::{Backend, View};

use crate::{Queue, Result};

/// `out = [mean |a - b|, mean |b|]`.
#[derive(Clone, Copy, Debug)]
pub struct MeanAbsDiff<'a> {
    /// Contiguous.
    pub a: View<'a>,
    /// Contiguous, as many elements.
    pub b: View<'a>,
    /// f32 `[2]`.
    pub out: View<'a>,
}

/// See [`MeanAbsDiff`].
pub fn mean_abs_diff<B: Backend>(_queue: &Queue<B>, _args: &MeanAbsDiff<'_>) -> Result<()> {
    todo!()
}
