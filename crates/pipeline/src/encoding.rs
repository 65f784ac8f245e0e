use lighterage_device::Backend;
use lighterage_ops::{self as ops, Patchify, Queue, Tensor};
use lighterage_pager::Pager;
use lighterage_shape::DType;
use lighterage_vae::{Encoder, Moments, Tiling};

use crate::Result;
use crate::options::{FACTOR, SIDE_STEP};

/// The phase of the control picture: from pixels to packed latents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoding<'a> {
    pub(crate) encoder: &'a Encoder,
    /// Pixels.
    pub(crate) width: usize,
    /// Pixels.
    pub(crate) height: usize,
    pub(crate) dtype: DType,
    /// Side in pixels of the tiles; none: by size alone.
    pub(crate) tile: Option<usize>,
}

impl Encoding<'_> {
    /// What the encoder says of a picture, `[height, width, 3]`, -1 to 1, which is made only where memory has bytes. It is released when it is done.
    pub(crate) fn run<B: Backend>(
        self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        picture: impl FnOnce() -> Vec<f32>,
    ) -> Result<Moments<B>> {
        let Self { encoder, width, height, dtype, tile } = self;
        let picture = queue.upload_made(dtype, &[height, width, 3], "control picture", picture)?;
        let tiling = Tiling::choose(height, width, FACTOR, tile)?;
        Ok(encoder.encode(queue, pager, picture.view(), tiling)?)
    }

    /// The mean as the models take it, packed: `[grid tokens, channels]`.
    pub(crate) fn mean<B: Backend>(self, queue: &Queue<B>, moments: &Moments<B>) -> Result<Tensor<B>> {
        let config = self.encoder.config();
        let (multiply, shift) = (config.scaling_factor, config.shift_factor.unwrap_or(0.0));
        let tokens = self.height / SIDE_STEP * (self.width / SIDE_STEP);
        let tokens = queue.tensor(self.dtype, &[tokens, 4 * config.latent_channels], "control latents")?;
        let image = moments.mean()?.transpose(1, 2)?.transpose(0, 1)?;
        ops::patchify(queue, &Patchify { image, multiply, add: -shift * multiply, tokens: tokens.view() })?;
        Ok(tokens)
    }
}
