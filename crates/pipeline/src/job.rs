use std::sync::Arc;

use lighterage_device::{Backend, Device, Rates};
use lighterage_dit::Transformer;
use lighterage_ops::{self as ops, Queue, Tensor, Unpatchify};
use lighterage_pager::{Pager, Units, check_finite};
use lighterage_text::clip::Clip;
use lighterage_text::t5::T5;
use lighterage_text::{ClipTokenizer, T5Tokenizer};
use lighterage_vae::{Decoder, Tiling};

use crate::options::FACTOR;
use crate::picture::{pack, pixel};
use crate::stage::{Stage, Weights};
use crate::{
    Conditions, Denoiser, Forecast, Keep, Model, Observer, Options, Phase, Picture, PromptValues, Prompted,
    Report, Result, Schedule, Survey, tensor,
};

/// One picture to be made: the prompt as ids, the models that they need, and which weights those read. No weight is touched yet.
///
/// The text encoders are made for the ids of one prompt, since they copy only those rows of their tables.
#[derive(Debug)]
pub struct Job {
    options: Options,
    schedule: Schedule,
    clip: Clip,
    t5: T5,
    text_units: Arc<Units>,
    transformer: Transformer,
    transformer_units: Arc<Units>,
    decoder: Decoder,
    decoder_units: Arc<Units>,
}

/// What the text encoders made of the prompt, on the device.
struct Prompt<B: Backend> {
    states: Tensor<B>,
    pooled: Tensor<B>,
}

/// What comes back to the host of one walk.
#[derive(Default)]
struct Made {
    rgb: Option<Vec<u8>>,
    not_finite: usize,
    latents: Option<Vec<f32>>,
    prompt: Option<PromptValues>,
    steps: Vec<Vec<f32>>,
}

impl Job {
    /// Checks the options, splits the prompt into ids, and registers every weight that the run will read.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) for an option outside of its range; else what is wrong in a tokenizer, a configuration or a
    /// checkpoint, with file, tensor and numbers.
    pub fn new(model: &Model, options: Options) -> Result<Self> {
        options.check()?;
        let dtype = options.dtype;
        let mut text_units = Units::default();
        let (clip, t5) = encoders(model, &options, &mut text_units)?;
        let (config, weights) = (model.transformer.config.clone(), &model.transformer.weights);
        let mut transformer_units = Units::default();
        let transformer = Transformer::new(config, weights, dtype, &mut transformer_units)?;
        let mut decoder_units = Units::default();
        let decoder = Decoder::new(model.vae.config.clone(), &model.vae.weights, dtype, &mut decoder_units)?;
        if options.check_weights {
            [&text_units, &transformer_units, &decoder_units].into_iter().try_for_each(check_finite)?;
        }
        Ok(Self {
            schedule: options.schedule(&model.scheduler),
            options,
            clip,
            t5,
            text_units: Arc::new(text_units),
            transformer,
            transformer_units: Arc::new(transformer_units),
            decoder,
            decoder_units: Arc::new(decoder_units),
        })
    }

    /// What is asked for.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// The noise levels of its steps.
    #[must_use]
    pub const fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The same picture from another noise.
    pub const fn reseed(&mut self, seed: u64) {
        self.options.seed = seed;
    }

    /// What it needs on a device with pages of this size, at any budget: a dry pass, which takes milliseconds.
    ///
    /// # Errors
    /// What the models report.
    pub fn survey(&self, page_bytes: u64) -> Result<Survey> {
        self.survey_at(page_bytes, None)
    }

    /// As [`survey`](Self::survey), for a device with these rates: then plans know times.
    ///
    /// # Errors
    /// What the models report.
    pub fn survey_at(&self, page_bytes: u64, rates: Option<Rates>) -> Result<Survey> {
        let noise = vec![0.0; self.channels() * 4 * self.options.grid().tokens()];
        Survey::take(page_bytes, rates, |stage| self.walk(stage, &noise, Keep::default()))
    }

    /// Makes the picture by a forecast, which came from this job's survey at a budget that `device` has.
    ///
    /// # Errors
    /// [`Error::HostShortage`](crate::Error::HostShortage) before anything is done, [`Error::Cancelled`](crate::Error::Cancelled) if the observer
    /// says so, or what device, pager and models report.
    pub fn run<B: Backend>(
        &self,
        device: &Device<B>,
        forecast: &Forecast,
        keep: Keep,
        observer: &mut dyn Observer,
    ) -> Result<Picture> {
        forecast.check_host(device.host_ledger().free_bytes())?;
        let mut stage = Stage::new(device, Weights::Planned(forecast), observer)?;
        let made = self.walk(&mut stage, &self.noise(), keep)?;
        Ok(Picture {
            width: self.options.width,
            height: self.options.height,
            rgb: made.rgb,
            not_finite: made.not_finite,
            latents: made.latents,
            prompt: made.prompt,
            steps: made.steps,
            report: Report::new(device, self.options.steps, &stage.into_seen()),
        })
    }

    /// The whole way, on any backend: what survives a phase is what the next one is given.
    fn walk<B: Backend>(&self, stage: &mut Stage<'_, B>, noise: &[f32], keep: Keep) -> Result<Made> {
        let mut made = Made::default();
        let steps = if stage.is_dry() { 1 } else { self.options.steps };
        let prompt = stage.phase(Phase::Text, &self.text_units, |queue, pager, _| {
            let prompt = self.encode(queue, pager)?;
            if keep.prompt {
                made.prompt = prompt.values(queue)?;
            }
            Ok(prompt)
        })?;
        let conditions = stage.phase(Phase::Modulation, &self.transformer_units, |queue, pager, _| {
            let Prompt { states, pooled } = prompt;
            let guidance = self.options.guidance;
            let prompted = Prompted { states: states.view(), pooled: pooled.view(), guidance };
            Conditions::new(queue, pager, &self.transformer, &prompted, &self.schedule)
        })?;
        stage.repeats(&[self.options.steps as u64]);
        let latents = stage.phase(Phase::Denoise, &self.transformer_units, |queue, pager, observer| {
            let grid = self.options.grid();
            let denoiser = Denoiser::new(queue, &self.transformer, &self.schedule, conditions, grid, noise)?;
            if keep.steps {
                for index in 0..steps {
                    denoiser.run_from(pager, index, index + 1, observer)?;
                    made.steps.extend(tensor::read(queue, denoiser.latents())?);
                }
            } else {
                denoiser.run(pager, steps, observer)?;
            }
            if keep.latents {
                made.latents = tensor::read(queue, denoiser.latents())?;
            }
            Ok(denoiser.into_latents())
        })?;
        let values = stage.phase(Phase::Vae, &self.decoder_units, |queue, pager, _| {
            let image = self.decode(queue, pager, latents)?;
            tensor::read(queue, image.view())
        })?;
        made.not_finite = values.iter().flatten().filter(|value| !value.is_finite()).count();
        made.rgb = values.map(|values| values.into_iter().map(pixel).collect());
        Ok(made)
    }

    fn encode<B: Backend>(&self, queue: &Queue<B>, pager: &Pager<B>) -> Result<Prompt<B>> {
        let pooled = self.clip.forward(queue, pager)?.pooled;
        Ok(Prompt { states: self.t5.forward(queue, pager)?, pooled })
    }

    /// `[height, width, 3]`, -1 to 1.
    fn decode<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        latents: Tensor<B>,
    ) -> Result<Tensor<B>> {
        let Options { width, height, dtype, vae_tile, .. } = self.options;
        let (config, channels) = (self.decoder.config(), self.channels());
        let latent = queue.tensor(dtype, &[height / FACTOR, width / FACTOR, channels], "latent")?;
        let unpatchify = Unpatchify {
            tokens: latents.view(),
            multiply: config.scaling_factor.recip(),
            add: config.shift_factor.unwrap_or(0.0),
            image: latent.view().transpose(1, 2)?.transpose(0, 1)?,
        };
        ops::unpatchify(queue, &unpatchify)?;
        drop(latents);
        let tiling = Tiling::choose(height, width, FACTOR, vae_tile)?;
        Ok(self.decoder.decode(queue, pager, latent.view(), tiling)?)
    }

    fn noise(&self) -> Vec<f32> {
        let (channels, grid) = (self.channels(), self.options.grid());
        let noise = self.options.noise.normals(self.options.seed, channels * 4 * grid.tokens());
        pack(&noise, channels, grid)
    }

    /// Channels of a latent before packing.
    const fn channels(&self) -> usize {
        self.transformer.config().in_channels / 4
    }
}

impl<B: Backend> Prompt<B> {
    fn values(&self, queue: &Queue<B>) -> Result<Option<PromptValues>> {
        let states = tensor::read(queue, self.states.view())?;
        let pooled = tensor::read(queue, self.pooled.view())?;
        Ok(states.zip(pooled).map(|(states, pooled)| PromptValues { states, pooled }))
    }
}

/// Both text encoders for the prompt's ids. The tokenizers, with their vocabularies, are gone when it returns.
fn encoders(model: &Model, options: &Options, units: &mut Units) -> Result<(Clip, T5)> {
    let clip_tokens = Clip::positions(&model.clip.config, &model.clip.weights)?;
    let ids = ClipTokenizer::open(&model.root.join("tokenizer"))?.encode(&options.prompt, clip_tokens)?;
    let clip = Clip::new(model.clip.config.clone(), &model.clip.weights, options.dtype, &ids, units)?;
    let ids = T5Tokenizer::open(&model.root.join("tokenizer_2"))?
        .encode(&options.prompt, options.max_sequence_length)?;
    let t5 = T5::new(model.t5.config.clone(), &model.t5.weights, options.dtype, &ids, units)?;
    Ok((clip, t5))
}
