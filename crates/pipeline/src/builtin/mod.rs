//! The released models without their files: the same pipeline code over names and shapes, for plans.

mod walk;

use std::sync::Arc;

use lighterage_checkpoint::Checkpoint;
use lighterage_device::{Backend, Device, Rates};
use lighterage_dit::{Config, InfuseNet, Transformer};
use lighterage_identity::{HEAD, Resampler};
use lighterage_pager::Units;
use lighterage_shape::DType;
use lighterage_text::clip::{self, Clip};
use lighterage_text::t5::{self, T5};
use lighterage_vae::{self as vae, Decoder, Encoder};

use crate::encoders::Encoders;
use crate::options::SIDE_STEP;
use crate::stage::{Stage, Weights};
use crate::{Forecast, Grid, Released, Report, Result, Schedule, SchedulerConfig, Spacing, Survey, Window};

/// FLUX.1-dev as it was released, in bf16, perhaps with InfiniteYou's InfuseNet, as far as it can be known without its weights: everything but the values.
///
/// It is surveyed like a [`Job`](crate::Job), by the same code of the same models, and may be run: on `Sim` in no time, elsewhere on weights that are all zero.
/// With InfuseNet come the phases of a face before the loop: the projector, and the control picture, which is black.
///
/// ```
/// use lighterage_device::Profile;
/// use lighterage_pipeline::{BuiltIn, BuiltInOptions};
///
/// # fn main() -> lighterage_pipeline::Result<()> {
/// let model = BuiltIn::new(BuiltInOptions { with_infusenet: true, ..BuiltInOptions::default() })?;
/// let card = Profile::named("rtx4090").expect("a built-in card");
/// let forecast = model.survey(2 << 20, Some(card.rates))?.within(12 << 30)?;
/// println!("{forecast}");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct BuiltIn {
    options: BuiltInOptions,
    schedule: Schedule,
    encoders: Encoders,
    text_units: Arc<Units>,
    transformer: Transformer,
    infusenet: Option<InfuseNet>,
    portrait: Option<Portrait>,
    /// Of transformer and InfuseNet: they are visited in one cycle.
    dit_units: Arc<Units>,
    decoder: Decoder,
    decoder_units: Arc<Units>,
}

/// What a face takes before the loop.
#[derive(Debug)]
struct Portrait {
    resampler: Resampler,
    resampler_units: Arc<Units>,
    encoder: Encoder,
    encoder_units: Arc<Units>,
}

/// What to plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BuiltInOptions {
    /// Pixels: a multiple of 16.
    pub width: usize,
    /// Pixels: a multiple of 16.
    pub height: usize,
    /// Steps of the loop.
    pub steps: usize,
    /// Whether there is a face: projector and control picture before the loop, and the steps of the window run InfuseNet first.
    pub with_infusenet: bool,
    /// On which steps InfuseNet works.
    pub window: Window,
}

impl Default for BuiltInOptions {
    /// 1280 x 720 in 50 steps, without InfuseNet.
    fn default() -> Self {
        Self { width: 1280, height: 720, steps: 50, with_infusenet: false, window: Window::ALL }
    }
}

impl BuiltInOptions {
    const fn grid(&self) -> Grid {
        Grid { rows: self.height / SIDE_STEP, columns: self.width / SIDE_STEP }
    }
}

/// Of weights and activations.
const DTYPE: DType = DType::Bf16;
/// Tokens of a prompt, as FLUX.1-dev has them.
const CLIP_TOKENS: usize = 77;
const T5_TOKENS: usize = 512;

impl BuiltIn {
    /// Registers every weight of the models.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) for a side or a number of steps that cannot be.
    pub fn new(options: BuiltInOptions) -> Result<Self> {
        crate::options::check_size(options.width, options.height, options.steps)?;
        let mut text_units = Units::default();
        let clip = Clip::new(
            clip::Config::from_json(CLIP)?,
            &checkpoint(Released::Clip)?,
            DTYPE,
            &[0; CLIP_TOKENS],
            &mut text_units,
        )?;
        let t5 = T5::new(
            t5::Config::from_json(T5_XXL)?,
            &checkpoint(Released::T5)?,
            DTYPE,
            &[0; T5_TOKENS],
            &mut text_units,
        )?;
        let mut dit_units = Units::default();
        let infusenet = options.with_infusenet.then(|| -> Result<InfuseNet> {
            let weights = checkpoint(Released::InfuseNet)?;
            Ok(InfuseNet::new(Config::derive(&weights)?, &weights, DTYPE, &mut dit_units)?)
        });
        let infusenet = infusenet.transpose()?;
        let weights = checkpoint(Released::Transformer)?;
        let transformer = Transformer::new(Config::derive(&weights)?, &weights, DTYPE, &mut dit_units)?;
        let portrait = options.with_infusenet.then(Portrait::new).transpose()?;
        let mut decoder_units = Units::default();
        let weights = checkpoint(Released::Autoencoder)?;
        let decoder = Decoder::new(vae::Config::flux(), &weights, DTYPE, &mut decoder_units)?;
        let (config, tokens) = (SchedulerConfig::flux_dev(), options.grid().tokens());
        Ok(Self {
            schedule: Schedule::new(Spacing::Diffusers, &config, options.steps, tokens),
            options,
            encoders: Encoders { clip, t5, cuts: Vec::new() },
            text_units: Arc::new(text_units),
            transformer,
            infusenet,
            portrait,
            dit_units: Arc::new(dit_units),
            decoder,
            decoder_units: Arc::new(decoder_units),
        })
    }

    /// What it needs on a device with pages of this size, at any budget, and how long its launches take at these rates.
    ///
    /// # Errors
    /// What the models report.
    pub fn survey(&self, page_bytes: u64, rates: Option<Rates>) -> Result<Survey> {
        Survey::take(page_bytes, rates, |stage| self.walk(stage, 1))
    }

    /// Runs it by a forecast; what comes out is of no interest, what it took is.
    ///
    /// # Errors
    /// What device, pager and models report.
    pub fn run<B: Backend>(&self, device: &Device<B>, forecast: &Forecast) -> Result<Report> {
        self.run_steps(device, forecast, self.options.steps)
    }

    /// As [`run`](Self::run), but ends the loop after so many of its steps: two such runs tell what one step takes.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_steps<B: Backend>(
        &self,
        device: &Device<B>,
        forecast: &Forecast,
        steps: usize,
    ) -> Result<Report> {
        let mut nobody = ();
        let mut stage = Stage::new(device, Weights::Planned(forecast), &mut nobody)?;
        self.walk(&mut stage, steps.min(self.options.steps))?;
        Ok(Report::new(device, steps, &stage.into_seen()))
    }
}

impl Portrait {
    fn new() -> Result<Self> {
        let (mut resampler_units, mut encoder_units) = (Units::default(), Units::default());
        let weights = checkpoint(Released::Projector)?;
        let resampler = Resampler::new(&weights, HEAD, DTYPE, &mut resampler_units)?;
        let weights = checkpoint(Released::Autoencoder)?;
        let encoder = Encoder::new(vae::Config::flux(), &weights, DTYPE, &mut encoder_units)?;
        Ok(Self {
            resampler,
            resampler_units: Arc::new(resampler_units),
            encoder,
            encoder_units: Arc::new(encoder_units),
        })
    }
}

fn checkpoint(released: Released) -> Result<Checkpoint> {
    Ok(Checkpoint::of_shapes(format!("built-in/{released}"), DTYPE, &released.shapes())?)
}

const CLIP: &str = r#"{"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
    "max_position_embeddings": 77, "hidden_act": "quick_gelu", "eos_token_id": 2}"#;

const T5_XXL: &str = r#"{"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_heads": 64, "num_layers": 24,
    "feed_forward_proj": "gated-gelu"}"#;
