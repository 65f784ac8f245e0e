use lighterage_device::{Backend, View};

use crate::{Queue, Result};

/// `[cos(v w_i), sin(v w_i)]`, `w_i = 10000^(-i / half)`, all in f32 and in the reference's order.
#[derive(Clone, Copy, Debug)]
pub struct Sinusoid<'a> {
    /// f32 `[rows]`.
    pub values: View<'a>,
    /// `[rows, columns]`, contiguous, columns even.
    pub out: View<'a>,
}

/// See [`Sinusoid`].
pub fn sinusoid<B: Backend>(_queue: &Queue<B>, _args: &Sinusoid<'_>) -> Result<()> {
    todo!()
}
