use lighterage_device::Backend;
use lighterage_ops::{self as ops, Queue, Tensor, Unpatchify};
use lighterage_pager::Pager;
use lighterage_shape::DType;
use lighterage_vae::{Decoder, Tiling};

use crate::Result;
use crate::options::FACTOR;

/// The last phase: from packed latents to a picture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoding<'a> {
    pub(crate) decoder: &'a Decoder,
    /// Pixels.
    pub(crate) width: usize,
    /// Pixels.
    pub(crate) height: usize,
    pub(crate) dtype: DType,
    /// Side in pixels of the tiles; none: by size alone.
    pub(crate) tile: Option<usize>,
}

impl Decoding<'_> {
    /// `[height, width, 3]`, -1 to 1. The latents are released before the decoder runs.
    pub(crate) fn run<B: Backend>(
        self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        latents: Tensor<B>,
    ) -> Result<Tensor<B>> {
        let Self { decoder, width, height, dtype, tile } = self;
        let config = decoder.config();
        let shape = [height / FACTOR, width / FACTOR, config.latent_channels];
        let latent = queue.tensor(dtype, &shape, "latent")?;
        let unpatchify = Unpatchify {
            tokens: latents.view(),
            multiply: config.scaling_factor.recip(),
            add: config.shift_factor.unwrap_or(0.0),
            image: latent.view().transpose(1, 2)?.transpose(0, 1)?,
        };
        ops::unpatchify(queue, &unpatchify)?;
        drop(latents);
        let tiling = Tiling::choose(height, width, FACTOR, tile)?;
        Ok(decoder.decode(queue, pager, latent.view(), tiling)?)
    }
}
