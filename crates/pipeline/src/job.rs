use std::sync::Arc;

use lighterage_device::{Backend, Device, Rates};
use lighterage_dit::{Adapters, InfuseNet, Transformer};
use lighterage_ops::{Queue, Tensor};
use lighterage_pager::{Pager, UnitId, Units, check_finite};
use lighterage_vae::Decoder;

use crate::decoding::Decoding;
use crate::encoders::{Cut, Encoders, Prompt};
use crate::face::FaceModels;
use crate::infusion::Segment;
use crate::picture::{pack, pixel};
use crate::stage::{Stage, Weights};
use crate::{
    Conditions, Denoiser, Footprint, Forecast, InfiniteYou, Infused, Infusion, Keep, Model, Observer,
    Options, Phase, Picture, Portrayed, PromptValues, Prompted, Report, Result, Schedule, Survey, Window,
};

/// What a job may have beside its model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    /// Needed for a face.
    pub infinite_you: Option<&'a InfiniteYou>,
    /// Low-rank changes to the transformer's linears.
    pub adapters: Option<&'a Adapters>,
}

/// One picture to be made: the prompt as ids, the models that they need, and which weights those read. No weight is touched yet.
///
/// The text encoders are made for the ids of one prompt, since they copy only those rows of their tables.
#[derive(Debug)]
pub struct Job {
    options: Options,
    schedule: Schedule,
    encoders: Encoders,
    negative: Option<Encoders>,
    text_units: Arc<Units>,
    face: Option<FaceModels>,
    net: Option<InfuseNet>,
    transformer: Transformer,
    /// Of transformer and InfuseNet: one cycle.
    transformer_units: Arc<Units>,
    decoder: Decoder,
    decoder_units: Arc<Units>,
}

/// What the loop reads and no step changes.
struct Told<B: Backend> {
    positive: Conditions<B>,
    negative: Option<Conditions<B>>,
    infusion: Option<Infusion<B>>,
}

/// A face on the device: its tokens, and the latents of its pose.
struct Portrait<B: Backend> {
    tokens: Tensor<B>,
    control: Tensor<B>,
}

/// What comes back to the host of one walk.
#[derive(Default)]
struct Made {
    rgb: Option<Vec<u8>>,
    not_finite: usize,
    latents: Option<Vec<f32>>,
    prompt: Option<PromptValues>,
    tokens: Option<Vec<f32>>,
    steps_computed: usize,
    steps_replayed: usize,
    not_replayed: Option<String>,
    steps: Vec<Vec<f32>>,
}

impl Job {
    /// Checks the options, splits the prompt into ids, and registers every weight that the run will read.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) for an option outside of its range; else what is wrong in a tokenizer, a configuration or a
    /// checkpoint, with file, tensor and numbers.
    pub fn new(model: &Model, options: Options) -> Result<Self> {
        Self::with(model, Extras::default(), options)
    }

    /// The same with a face or adapters.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::Option`](crate::Error::Option) for a face without an InfiniteYou, or one that does not fit the model.
    pub fn with(model: &Model, extras: Extras<'_>, options: Options) -> Result<Self> {
        options.check()?;
        let dtype = options.dtype;
        let mut text_units = Units::default();
        let encoders = Encoders::new(model, &options.prompt, &options, &mut text_units)?;
        let negation = options.negative.as_ref().filter(|negation| (negation.scale - 1.0).abs() > 0.0);
        let negative = negation
            .map(|negation| Encoders::new(model, &negation.prompt, &options, &mut text_units))
            .transpose()?;
        let face = face(model, extras.infinite_you, &options)?;
        let mut transformer_units = Units::default();
        let net = face
            .as_ref()
            .map(|(_, infinite_you)| net(infinite_you, &options, &mut transformer_units))
            .transpose()?;
        let (config, weights) = (model.transformer.config.clone(), &model.transformer.weights);
        let transformer =
            Transformer::adapted(config, weights, extras.adapters, dtype, &mut transformer_units)?;
        let mut decoder_units = Units::default();
        let decoder = Decoder::new(model.vae.config.clone(), &model.vae.weights, dtype, &mut decoder_units)?;
        let face = face.map(|(models, _)| models);
        if options.check_weights {
            let faces = face.iter().flat_map(|face| [&*face.resampler_units, &*face.encoder_units]);
            [&text_units, &transformer_units, &decoder_units]
                .into_iter()
                .chain(faces)
                .try_for_each(check_finite)?;
        }
        Ok(Self {
            schedule: options.schedule(&model.scheduler),
            options,
            encoders,
            negative,
            text_units: Arc::new(text_units),
            face,
            net,
            transformer,
            transformer_units: Arc::new(transformer_units),
            decoder,
            decoder_units: Arc::new(decoder_units),
        })
    }

    /// The encoders that read only the beginning of the prompt, and of the negative one.
    pub fn cuts(&self) -> impl Iterator<Item = (&'static str, Cut)> {
        let negative = self.negative.iter().map(|encoders| ("negative prompt", encoders));
        let all = std::iter::once(("prompt", &self.encoders)).chain(negative);
        all.flat_map(|(what, encoders)| encoders.cuts.iter().map(move |cut| (what, *cut)))
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

    /// What its plan depends on: a job with the same may be run by this one's forecast.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        let faces = self.face.iter().flat_map(|face| [&*face.resampler_units, &*face.encoder_units]);
        let units = [&*self.text_units, &*self.transformer_units, &*self.decoder_units];
        Footprint::new(&self.options, units.into_iter().chain(faces))
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
    /// [`Error::HostShortage`](crate::Error::HostShortage) before anything is done, [`Error::Cancelled`](crate::Error::Cancelled) or
    /// [`Error::CancelledBefore`](crate::Error::CancelledBefore) if the observer says so, or what device, pager and models report.
    pub fn run<B: Backend>(
        &self,
        device: &Device<B>,
        forecast: &Forecast,
        keep: Keep,
        observer: &mut dyn Observer,
    ) -> Result<Picture> {
        forecast.check_host(device)?;
        let mut stage = Stage::new(device, Weights::Planned(forecast), observer)?;
        let made = self.walk(&mut stage, &self.noise(), keep)?;
        let report = Report::new(device, self.options.steps, &stage.into_seen());
        Ok(Picture {
            width: self.options.width,
            height: self.options.height,
            rgb: made.rgb,
            not_finite: made.not_finite,
            latents: made.latents,
            prompt: made.prompt,
            tokens: made.tokens,
            steps: made.steps,
            report: Report {
                steps_computed: made.steps_computed,
                steps_replayed: made.steps_replayed,
                not_replayed: made.not_replayed,
                ..report
            },
        })
    }

    /// The whole way, on any backend: what survives a phase is what the next one is given.
    fn walk<B: Backend>(&self, stage: &mut Stage<'_, B>, noise: &[f32], keep: Keep) -> Result<Made> {
        let mut made = Made::default();
        let (prompt, negative) = stage.phase(Phase::Text, &self.text_units, |queue, pager, _| {
            let prompt = self.encoders.forward(queue, pager)?;
            if keep.prompt {
                made.prompt = prompt.values(queue)?;
            }
            let negative =
                self.negative.as_ref().map(|encoders| encoders.forward(queue, pager)).transpose()?;
            Ok((prompt, negative))
        })?;
        let portrait = self.portray(stage, keep, &mut made)?;
        let told = stage.phase(Phase::Modulation, &self.transformer_units, |queue, pager, _| {
            self.tell(queue, pager, prompt, negative, portrait)
        })?;
        let latents = self.denoise(stage, told, noise, keep, &mut made)?;
        let values = stage.phase(Phase::Vae, &self.decoder_units, |queue, pager, _| {
            let image = self.decoding().run(queue, pager, latents)?;
            Ok(queue.read_f32(image.view())?)
        })?;
        made.not_finite = values.iter().flatten().filter(|value| !value.is_finite()).count();
        made.rgb = values.map(|values| values.into_iter().map(pixel).collect());
        Ok(made)
    }

    /// Tokens and pose of the face, if there is one.
    fn portray<B: Backend>(
        &self,
        stage: &mut Stage<'_, B>,
        keep: Keep,
        made: &mut Made,
    ) -> Result<Option<Portrait<B>>> {
        let Some(face) = &self.face else { return Ok(None) };
        let tokens = stage.phase(Phase::Identity, &face.resampler_units, |queue, pager, _| {
            let tokens = face.tokens(queue, pager, &self.options)?;
            if keep.prompt {
                made.tokens = queue.read_f32(tokens.view())?;
            }
            Ok(tokens)
        })?;
        let control = stage.phase(Phase::Control, &face.encoder_units, |queue, pager, _| {
            face.control(queue, pager, &self.options)
        })?;
        Ok(Some(Portrait { tokens, control }))
    }

    /// All that depends on timestep, guidance, texts and face alone.
    fn tell<B: Backend>(
        &self,
        queue: &Queue<B>,
        pager: &Pager<B>,
        prompt: Prompt<B>,
        negative: Option<Prompt<B>>,
        portrait: Option<Portrait<B>>,
    ) -> Result<Told<B>> {
        let conditions = |prompt: &Prompt<B>| {
            let guidance = self.options.guidance;
            let prompted = Prompted { states: prompt.states.view(), pooled: prompt.pooled.view(), guidance };
            Conditions::new(queue, pager, &self.transformer, &prompted, &self.schedule)
        };
        let infusion = match (&self.net, &self.face, portrait) {
            (Some(net), Some(face), Some(Portrait { tokens, control })) => {
                let (tokens, pooled, control) = (tokens.view(), prompt.pooled.view(), control.view());
                let portrayed = Portrayed { tokens, pooled, control, guidance: face.face().guidance };
                Some(Infusion::new(queue, pager, net, &portrayed, &self.schedule)?)
            }
            _ => None,
        };
        let positive = conditions(&prompt)?;
        drop(prompt);
        let negative = negative.map(|negative| conditions(&negative)).transpose()?;
        Ok(Told { positive, negative, infusion })
    }

    /// The loop: one phase, whose steps with InfuseNet and without it are two kinds of turns.
    fn denoise<B: Backend>(
        &self,
        stage: &mut Stage<'_, B>,
        told: Told<B>,
        noise: &[f32],
        keep: Keep,
        made: &mut Made,
    ) -> Result<Tensor<B>> {
        let segments = self.segments();
        stage.repeats(Segment::turns(&segments));
        let segments = if stage.is_dry() { Segment::samples(segments) } else { segments };
        stage.phase_beside(
            Phase::Denoise,
            &self.transformer_units,
            &self.beside(),
            |queue, lent, observer| {
                let mut denoiser = self.denoiser(queue, told, noise)?;
                for Segment { steps, is_infused } in segments {
                    if !keep.steps {
                        denoiser.run(lent, steps, is_infused, observer)?;
                        continue;
                    }
                    for step in steps {
                        denoiser.run(lent, step..step + 1, is_infused, observer)?;
                        made.steps.extend(queue.read_f32(denoiser.latents())?);
                    }
                }
                made.steps_computed = denoiser.ran().iter().filter(|ran| **ran).count();
                let (replayed, refused) = denoiser.replayed();
                (made.steps_replayed, made.not_replayed) = (replayed, refused.map(str::to_owned));
                if keep.latents {
                    made.latents = queue.read_f32(denoiser.latents())?;
                }
                Ok(denoiser.into_latents())
            },
        )
    }

    fn denoiser<B: Backend>(
        &self,
        queue: &Queue<B>,
        told: Told<B>,
        noise: &[f32],
    ) -> Result<Denoiser<'_, B>> {
        let Told { positive, negative, infusion } = told;
        let grid = self.options.grid();
        let mut denoiser = Denoiser::new(queue, &self.transformer, &self.schedule, positive, grid, noise)?;
        if let (Some(net), Some(face), Some(infusion)) = (&self.net, &self.face, infusion) {
            denoiser = denoiser.infused(Some(Infused::new(queue, net, infusion, grid, face.face().scale)?));
        }
        if let (Some(conditions), Some(negation)) = (negative, &self.options.negative) {
            denoiser = denoiser.against(conditions, negation.scale)?;
        }
        denoiser.cached(self.options.teacache)
    }

    fn segments(&self) -> Vec<Segment> {
        let window = self.face.as_ref().map_or(Window::ALL, |face| face.face().window);
        window.segments(self.options.steps)
    }

    /// The weights that a step reads whose blocks are skipped.
    fn beside(&self) -> Vec<UnitId> {
        let can_skip = self.options.teacache.is_some_and(|cache| cache.can_skip());
        if can_skip { self.transformer.edges() } else { Vec::new() }
    }

    const fn decoding(&self) -> Decoding<'_> {
        let Options { width, height, dtype, vae_tile: tile, .. } = self.options;
        Decoding { decoder: &self.decoder, width, height, dtype, tile }
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

/// The models of the face and where they are from, if it changes anything.
fn face<'a>(
    model: &Model,
    infinite_you: Option<&'a InfiniteYou>,
    options: &Options,
) -> Result<Option<(FaceModels, &'a InfiniteYou)>> {
    let Some(face) = options.face.as_ref().filter(|face| face.is_active(options.steps)) else {
        return Ok(None);
    };
    let Some(infinite_you) = infinite_you else {
        return crate::error::option("face", "given", "given with an InfiniteYou, which is not there");
    };
    infinite_you.check_joints(model)?;
    Ok(Some((FaceModels::new(model, infinite_you, face.clone(), options)?, infinite_you)))
}

fn net(infinite_you: &InfiniteYou, options: &Options, units: &mut Units) -> Result<InfuseNet> {
    let part = &infinite_you.net;
    Ok(InfuseNet::new(part.config.clone(), &part.weights, options.dtype, units)?)
}
