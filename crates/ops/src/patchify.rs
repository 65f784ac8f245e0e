use lighterage_device::{Backend, View};

use crate::{Queue, Result};

/// FLUX's packing of 2x2 patches into tokens, with `multiply` and `add` applied to every value.
#[derive(Clone, Copy, Debug)]
pub struct Patchify<'a> {
    /// `[channels, height, width]`, any strides (transpose a channels-last view).
    pub image: View<'a>,
    /// Factor.
    pub multiply: f32,
    /// Added after it.
    pub add: f32,
    /// `[height / 2 * width / 2, 4 channels]`, contiguous.
    pub tokens: View<'a>,
}

/// See [`Patchify`].
pub fn patchify<B: Backend>(_queue: &Queue<B>, _args: &Patchify<'_>) -> Result<()> {
    todo!()
}
