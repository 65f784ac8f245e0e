use lighterage_checkpoint::Checkpoint;
use lighterage_device::{Backend, View};
use lighterage_ops::{Queue, Tensor};
use lighterage_pager::{Pager, UnitId, Units};
use lighterage_shape::DType;

use crate::level::{Level, Middle, Place, Resample};
use crate::names::{Names, Side};
use crate::registry::Registry;
use crate::run::{Run, Step};
use crate::tiled::{Scale, in_tiles, read_f32};
use crate::{Config, Error, Result, Tiling};

/// diffusers clamps the log-variance to this range.
const LOG_VARIANCE: (f32, f32) = (-30.0, 20.0);

/// From picture to the distribution of its latent.
#[derive(Debug)]
pub struct Encoder {
    config: Config,
    dtype: DType,
    conv_in: UnitId,
    levels: Vec<Level>,
    middle: Middle,
    norm_out: UnitId,
    conv_out: UnitId,
    quant: Option<UnitId>,
}

impl Encoder {
    /// Registers the encoder's weights, in the order of their use.
    ///
    /// # Errors
    /// [`Error::Pager`] or [`Error::Checkpoint`] for a missing or misshapen tensor.
    pub fn new(config: Config, checkpoint: &Checkpoint, dtype: DType, units: &mut Units) -> Result<Self> {
        let names = Names::new(checkpoint, Side::Encoder, config.levels());
        let mut registry = Registry { checkpoint, dtype, units };
        let moments = 2 * config.latent_channels;
        let conv_in = registry.conv(&names.conv_in(), config.block_out_channels[0], config.in_channels)?;
        let levels = levels(&config, names, &mut registry)?;
        let middle = Middle::new(&config, names, &mut registry)?;
        let norm_out = registry.norm(&names.norm_out(), config.middle())?;
        let conv_out = registry.conv(&names.conv_out(), moments, config.middle())?;
        let quant = match config.use_quant_conv {
            true => Some(registry.pointwise("quant_conv", moments, moments)?),
            false => None,
        };
        Ok(Self { config, dtype, conv_in, levels, middle, norm_out, conv_out, quant })
    }

    /// The configuration that it was made from.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The moments of a picture `[height, width, in_channels]`, contiguous, values -1 to 1. Sides that are no multiples of the factor lose
    /// their remainder, as in diffusers. `tiling` says in which tiles, if any; see [`Tiling::choose`].
    ///
    /// # Errors
    /// [`Error::Image`] for a picture of another shape, smaller than the factor, or, in tiles, with a remainder;
    /// [`Error::Pager`] or [`Error::Ops`]: no memory, or a device that fails.
    pub fn encode<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        picture: View<'_>,
        tiling: Option<Tiling>,
    ) -> Result<Moments<B>> {
        self.check(picture, tiling)?;
        let run = Run { queue, pager, dtype: self.dtype, groups: self.config.norm_num_groups };
        let channels = 2 * self.config.latent_channels;
        let scale = Scale { input: self.config.factor(), output: 1, channels };
        let tensor = in_tiles(picture, scale, tiling, &run, |tile| self.whole(tile, &run))?;
        Ok(Moments { tensor })
    }

    fn whole<B: Backend>(&self, picture: View<'_>, run: &Run<'_, B>) -> Result<Tensor<B>> {
        let x = run.conv(self.conv_in, picture, Step::Every, self.config.block_out_channels[0])?;
        let x = self.levels.iter().try_fold(x, |x, level| level.forward(x, run))?;
        let x = self.middle.forward(x, run)?;
        run.norm_silu(self.norm_out, &x)?;
        let channels = 2 * self.config.latent_channels;
        let moments = run.conv(self.conv_out, x.view(), Step::Every, channels)?;
        match self.quant {
            Some(quant) => run.pointwise_image(quant, moments.view(), channels),
            None => Ok(moments),
        }
    }

    fn check(&self, picture: View<'_>, tiling: Option<Tiling>) -> Result<()> {
        let factor = self.config.factor();
        let fits = |side: usize| side >= factor && (tiling.is_none() || side.is_multiple_of(factor));
        match *picture.shape() {
            [height, width, channels]
                if channels == self.config.in_channels && fits(height) && fits(width) =>
            {
                Ok(())
            }
            _ => Err(Error::Image {
                what: "the picture",
                expected: format!(
                    "[height, width, {}] with sides of at least {factor}, in tiles multiples of it",
                    self.config.in_channels
                ),
                got: picture.shape().to_vec(),
            }),
        }
    }
}

/// From the picture's size to the middle's.
fn levels(config: &Config, names: Names, registry: &mut Registry<'_>) -> Result<Vec<Level>> {
    let outs = &config.block_out_channels;
    let make = |index: usize| {
        let (inner, out) = (outs[index.saturating_sub(1)], outs[index]);
        let resample = (index + 1 < outs.len()).then_some(Resample::Down as fn(UnitId) -> Resample);
        let place = Place { index, resnets: config.layers_per_block, inner, out };
        Level::new(place, names, resample, registry)
    };
    (0..outs.len()).map(make).collect()
}

/// Mean and log-variance of a latent, on the device.
#[derive(Debug)]
pub struct Moments<B: Backend> {
    tensor: Tensor<B>,
}

/// Mean and log-variance of a latent, on the host, `[height, width, latent_channels]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    /// The mean.
    pub mean: Vec<f32>,
    /// The log-variance, clamped to -30 to 20.
    pub log_variance: Vec<f32>,
}

impl<B: Backend> Moments<B> {
    /// `[height, width, latent_channels]`.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        let shape = self.tensor.shape();
        [shape[0], shape[1], shape[2] / 2]
    }

    /// The mean, `[height, width, latent_channels]`: every other run of channels of the tensor, so not contiguous.
    ///
    /// # Errors
    /// None that a `Moments` of this crate can meet.
    pub fn mean(&self) -> Result<View<'_>> {
        Ok(self.tensor.view().narrow(2, 0, self.shape()[2])?)
    }

    /// Mean and clamped log-variance as f32; `None` where memory has no bytes (`Sim`).
    ///
    /// # Errors
    /// [`Error::Ops`] if earlier work failed.
    pub fn read(&self, queue: &Queue<B>) -> Result<Option<Values>> {
        let Some(values) = read_f32(queue, &self.tensor)? else { return Ok(None) };
        let channels = self.shape()[2];
        let (low, high) = LOG_VARIANCE;
        let rows = || values.chunks_exact(2 * channels);
        Ok(Some(Values {
            mean: rows().flat_map(|row| row[..channels].iter().copied()).collect(),
            log_variance: rows()
                .flat_map(|row| row[channels..].iter().map(|value| value.clamp(low, high)))
                .collect(),
        }))
    }
}
