use lighterage_device::{Backend, View};

use crate::{Queue, Result};

/// Rows and columns of zeros around an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding {
    /// Above.
    pub top: usize,
    /// Below.
    pub bottom: usize,
    /// At the left.
    pub left: usize,
    /// At the right.
    pub right: usize,
}

impl Padding {
    /// The same on every side.
    #[must_use]
    pub const fn all(pixels: usize) -> Self {
        Self { top: pixels, bottom: pixels, left: pixels, right: pixels }
    }
}

/// A 1x1 or 3x3 convolution of one channels-last image.
#[derive(Clone, Copy, Debug)]
pub struct Conv2d<'a> {
    /// `[height, width, in_channels]`, contiguous.
    pub x: View<'a>,
    /// `[out_channels, kernel, kernel, in_channels]`, contiguous.
    pub weight: View<'a>,
    /// `[out_channels]`.
    pub bias: Option<View<'a>>,
    /// 1 or 2.
    pub stride: usize,
    /// Zeros around the input.
    pub padding: Padding,
    /// As `out`; added.
    pub residual: Option<View<'a>>,
    /// `[out_height, out_width, out_channels]`, contiguous; may be the residual's view, nothing else.
    pub out: View<'a>,
}

/// See [`Conv2d`].
pub fn conv2d<B: Backend>(_queue: &Queue<B>, _args: &Conv2d<'_>) -> Result<()> {
    todo!()
}
