use std::sync::Arc;

use lighterage_device::Backend;
use lighterage_identity::{Photo, Resampler};
use lighterage_ops::{Queue, Tensor};
use lighterage_pager::{Pager, Units};
use lighterage_vae::Encoder;

use crate::encoding::Encoding;
use crate::error::option;
use crate::picture::pack;
use crate::{Grid, InfiniteYou, Model, Noise, Options, Result, Window};

/// Whose picture to make, and how strictly.
#[derive(Clone, Debug, PartialEq)]
pub struct Face {
    /// Of the person: 512 numbers.
    pub embedding: Vec<f32>,
    /// The pose of the face, as keypoints on black; none: any.
    pub control: Option<Photo>,
    /// Factor on what InfuseNet adds, 0 or more; 0 is without it.
    pub scale: f32,
    /// When it works.
    pub window: Window,
    /// Its own embedded guidance; not its strength.
    pub guidance: f32,
    /// What of the control picture's latent is taken.
    pub latent: Latent,
}

/// What of the distribution that the encoder gives is taken for the control picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Latent {
    /// Its mean, as `DiffSynth` does.
    #[default]
    Mean,
    /// A sample, as the official pipeline draws it: first thing, from the generator that then makes the picture's noise.
    Sample,
}

impl Face {
    /// As published: InfuseNet at full strength on all steps, its guidance 1, no pose.
    #[must_use]
    pub fn new(embedding: Vec<f32>) -> Self {
        Self {
            embedding,
            control: None,
            scale: 1.0,
            window: Window::ALL,
            guidance: 1.0,
            latent: Latent::Mean,
        }
    }

    /// Whether it changes anything in a run of so many steps.
    pub(crate) fn is_active(&self, steps: usize) -> bool {
        self.scale > 0.0 && self.window.is_open(steps)
    }

    pub(crate) fn check(&self, options: &Options) -> Result<()> {
        if !(self.scale.is_finite() && self.scale >= 0.0) {
            return option("infusenet-scale", self.scale, "a finite number, 0 or more");
        }
        if !(self.guidance.is_finite() && self.guidance >= 0.0) {
            return option("infusenet-guidance", self.guidance, "a finite number, 0 or more");
        }
        let Window { start, end } = self.window;
        if !((0.0..=1.0).contains(&start) && (start..=1.0).contains(&end)) {
            return option(
                "infusenet-start and -end",
                format!("{start} and {end}"),
                "0 to 1, the start not after the end",
            );
        }
        match &self.control {
            Some(control) if (control.width(), control.height()) != (options.width, options.height) => {
                let got = format!("{} x {}", control.width(), control.height());
                option(
                    "control picture",
                    got,
                    format!("{} x {}, as the picture", options.width, options.height),
                )
            }
            _ => Ok(()),
        }
    }
}

/// The models that a face needs before the loop.
#[derive(Debug)]
pub(crate) struct FaceModels {
    face: Face,
    resampler: Resampler,
    pub(crate) resampler_units: Arc<Units>,
    encoder: Encoder,
    pub(crate) encoder_units: Arc<Units>,
}

impl FaceModels {
    pub(crate) fn new(
        model: &Model,
        infinite_you: &InfiniteYou,
        face: Face,
        options: &Options,
    ) -> Result<Self> {
        let mut units = Units::default();
        let resampler =
            Resampler::new(&infinite_you.projector, infinite_you.head, options.dtype, &mut units)?;
        if face.embedding.len() != resampler.embedding() {
            let needs = format!("{} numbers, as the projector reads", resampler.embedding());
            return option("identity embedding", face.embedding.len(), needs);
        }
        let joint = model.transformer.config.joint_attention_dim;
        if resampler.tokens()[1] != joint {
            return option(
                "projector's tokens",
                resampler.tokens()[1],
                format!("{joint} numbers, as the transformer reads"),
            );
        }
        let mut encoder_units = Units::default();
        let encoder =
            Encoder::new(model.vae.config.clone(), &model.vae.weights, options.dtype, &mut encoder_units)?;
        Ok(Self {
            face,
            resampler,
            resampler_units: Arc::new(units),
            encoder,
            encoder_units: Arc::new(encoder_units),
        })
    }

    pub(crate) const fn face(&self) -> &Face {
        &self.face
    }

    /// The tokens that stand for the person, `[tokens, joint]`.
    pub(crate) fn tokens<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        options: &Options,
    ) -> Result<Tensor<B>> {
        let embedding = &self.face.embedding;
        let embedding = queue.upload_as(options.dtype, embedding, &[1, embedding.len()], "embedding")?;
        Ok(self.resampler.forward(queue, pager, embedding.view())?)
    }

    /// The control picture's packed latents, `[grid tokens, channels]`.
    pub(crate) fn control<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        options: &Options,
    ) -> Result<Tensor<B>> {
        let Options { width, height, dtype, vae_tile: tile, .. } = *options;
        let values = || control_values(self.face.control.as_ref(), [width, height]);
        let encoding = Encoding { encoder: &self.encoder, width, height, dtype, tile };
        let moments = encoding.run(queue, pager, values)?;
        if self.face.latent == Latent::Mean {
            return encoding.mean(queue, &moments);
        }
        let config = self.encoder.config();
        let (scale, shift) = (config.scaling_factor, config.shift_factor.unwrap_or(0.0));
        let grid = options.grid();
        let shape = [grid.tokens(), 4 * config.latent_channels];
        let values = match moments.read(queue)? {
            Some(moments) => sample(&moments, config.latent_channels, grid, options),
            None => vec![0.0; shape[0] * shape[1]],
        };
        let values: Vec<f32> = values.into_iter().map(|value| (value - shift) * scale).collect();
        Ok(queue.upload_as(dtype, &values, &shape, "control latents")?)
    }
}

/// From -1 to 1; black without a picture.
pub(crate) fn control_values(control: Option<&Photo>, [width, height]: [usize; 2]) -> Vec<f32> {
    match control {
        None => vec![-1.0; 3 * width * height],
        Some(photo) => photo.rgb().iter().map(|value| f32::from(*value) / 255.0 * 2.0 - 1.0).collect(),
    }
}

/// `mean + exp(log variance / 2) noise`, packed; the noise is the first draw of the picture's generator.
fn sample(moments: &lighterage_vae::Values, channels: usize, grid: Grid, options: &Options) -> Vec<f32> {
    let count = moments.mean.len();
    let first = match options.noise {
        Noise::CudaSecond(multiprocessors) | Noise::Cuda(multiprocessors) => Noise::Cuda(multiprocessors),
        Noise::Cpu => Noise::Cpu,
    };
    let noise = first.normals(options.seed, count);
    let shape = [2 * grid.rows, 2 * grid.columns, channels];
    let first = |values: &[f32]| lighterage_vae::channels_first(values, shape);
    let (mean, log_variance) = (first(&moments.mean), first(&moments.log_variance));
    let values: Vec<f32> = mean
        .iter()
        .zip(&log_variance)
        .zip(noise)
        .map(|((mean, log), noise)| mean + (0.5 * log).exp() * noise)
        .collect();
    pack(&values, channels, grid)
}
