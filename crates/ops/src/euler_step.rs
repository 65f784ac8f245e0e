use lighterage_device::{Backend, View};

use crate::{Queue, Result};

/// `x += delta * velocity`.
#[derive(Clone, Copy, Debug)]
pub struct EulerStep<'a> {
    /// Contiguous; read and written.
    pub x: View<'a>,
    /// Contiguous, as many elements.
    pub velocity: View<'a>,
    /// Sigma of the next step less sigma of this one.
    pub delta: f32,
}

/// See [`EulerStep`].
pub fn euler_step<B: Backend>(_queue: &Queue<B>, _args: &EulerStep<'_>) -> Result<()> {
    todo!()
}
