use lighterage_checkpoint::Checkpoint;
use lighterage_device::{Backend, View};
use lighterage_ops::{Queue, Tensor};
use lighterage_pager::{Pager, UnitId, Units};
use lighterage_shape::DType;

use crate::level::{Level, Middle, Place, Resample};
use crate::names::{Names, Side};
use crate::registry::Registry;
use crate::run::{Run, Step};
use crate::tiled::{Scale, in_tiles};
use crate::{Config, Error, Result, Tiling};

/// From latent to picture.
#[derive(Debug)]
pub struct Decoder {
    config: Config,
    dtype: DType,
    post_quant: Option<UnitId>,
    conv_in: UnitId,
    middle: Middle,
    levels: Vec<Level>,
    norm_out: UnitId,
    conv_out: UnitId,
}

impl Decoder {
    /// Registers the decoder's weights, in the order of their use.
    ///
    /// # Errors
    /// [`Error::Pager`] or [`Error::Checkpoint`] for a missing or misshapen tensor.
    pub fn new(config: Config, checkpoint: &Checkpoint, dtype: DType, units: &mut Units) -> Result<Self> {
        let names = Names::new(checkpoint, Side::Decoder, config.levels());
        let mut registry = Registry { checkpoint, dtype, units };
        let latent = config.latent_channels;
        let post_quant = match config.use_post_quant_conv {
            true => Some(registry.pointwise("post_quant_conv", latent, latent)?),
            false => None,
        };
        let conv_in = registry.conv(&names.conv_in(), config.middle(), latent)?;
        let middle = Middle::new(&config, names, &mut registry)?;
        let levels = levels(&config, names, &mut registry)?;
        let full = config.block_out_channels[0];
        let norm_out = registry.norm(&names.norm_out(), full)?;
        let conv_out = registry.conv(&names.conv_out(), config.out_channels, full)?;
        Ok(Self { config, dtype, post_quant, conv_in, middle, levels, norm_out, conv_out })
    }

    /// The configuration that it was made from.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The picture, `[factor height, factor width, out_channels]`, of a latent `[height, width, latent_channels]`, contiguous, as the
    /// network wants it (unscaled, unshifted). `tiling` says in which tiles, if any; see [`Tiling::choose`].
    ///
    /// # Errors
    /// [`Error::Image`] for a latent of another shape, [`Error::Pager`] or [`Error::Ops`]: no memory, or a device that fails.
    pub fn decode<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        latent: View<'_>,
        tiling: Option<Tiling>,
    ) -> Result<Tensor<B>> {
        self.check(latent)?;
        let run = Run { queue, pager, dtype: self.dtype, groups: self.config.norm_num_groups };
        let scale = Scale { input: 1, output: self.config.factor(), channels: self.config.out_channels };
        in_tiles(latent, scale, tiling, &run, |tile| self.whole(tile, &run))
    }

    fn whole<B: Backend>(&self, latent: View<'_>, run: &Run<'_, B>) -> Result<Tensor<B>> {
        let x = self.enter(latent, run)?;
        let x = self.middle.forward(x, run)?;
        let x = self.levels.iter().try_fold(x, |x, level| level.forward(x, run))?;
        run.norm_silu(self.norm_out, &x)?;
        run.conv(self.conv_out, x.view(), Step::Every, self.config.out_channels)
    }

    fn enter<B: Backend>(&self, latent: View<'_>, run: &Run<'_, B>) -> Result<Tensor<B>> {
        let Some(post_quant) = self.post_quant else {
            return run.conv(self.conv_in, latent, Step::Every, self.config.middle());
        };
        let latent = run.pointwise_image(post_quant, latent, self.config.latent_channels)?;
        run.conv(self.conv_in, latent.view(), Step::Every, self.config.middle())
    }

    fn check(&self, latent: View<'_>) -> Result<()> {
        match *latent.shape() {
            [height, width, channels] if height * width > 0 && channels == self.config.latent_channels => {
                Ok(())
            }
            _ => Err(Error::Image {
                what: "the latent",
                expected: format!("[height, width, {}]", self.config.latent_channels),
                got: latent.shape().to_vec(),
            }),
        }
    }
}

/// From the middle's size to the picture's.
fn levels(config: &Config, names: Names, registry: &mut Registry<'_>) -> Result<Vec<Level>> {
    let outs: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
    let make = |index: usize| {
        let (inner, out) = (outs[index.saturating_sub(1)], outs[index]);
        let resample = (index + 1 < outs.len()).then_some(Resample::Up as fn(UnitId) -> Resample);
        let place = Place { index, resnets: config.layers_per_block + 1, inner, out };
        Level::new(place, names, resample, registry)
    };
    (0..outs.len()).map(make).collect()
}
