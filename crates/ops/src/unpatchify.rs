use lighterage_device::{Backend, View};

use crate::{Queue, Result};

/// The inverse of patchify, with `multiply` and `add` applied to every value.
#[derive(Clone, Copy, Debug)]
pub struct Unpatchify<'a> {
    /// `[height / 2 * width / 2, 4 channels]`, contiguous.
    pub tokens: View<'a>,
    /// Factor.
    pub multiply: f32,
    /// Added after it.
    pub add: f32,
    /// `[channels, height, width]`, any strides (transpose a channels-last view).
    pub image: View<'a>,
}

/// See [`Unpatchify`].
pub fn unpatchify<B: Backend>(_queue: &Queue<B>, _args: &Unpatchify<'_>) -> Result<()> {
    todo!()
}
