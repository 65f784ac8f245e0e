use lighterage_device::{Backend, View};

use crate::{Queue, Result};

/// f32 to bf16 (to nearest even) or back.
#[derive(Clone, Copy, Debug)]
pub struct Cast<'a> {
    /// Contiguous.
    pub x: View<'a>,
    /// Contiguous, as many elements.
    pub out: View<'a>,
}

/// See [`Cast`].
pub fn cast<B: Backend>(_queue: &Queue<B>, _args: &Cast<'_>) -> Result<()> {
    todo!()
}
