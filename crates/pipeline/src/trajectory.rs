use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::bf16;
use lighterage_checkpoint::{Checkpoint, Unmodified};
use lighterage_device::{Backend, Device};
use lighterage_dit::{InfuseNet, Transformer};
use lighterage_ops::Queue;
use lighterage_pager::{Pager, UnitId, Units};
use lighterage_shape::DType;
use serde::Deserialize;

use crate::infusion::Segment;
use crate::stage::{Stage, Weights};
use crate::{
    Conditions, Denoiser, Error, Forecast, Grid, Infused, Infusion, Observer, Phase, Portrayed, Prompted,
    Report, Result, Schedule, SchedulerConfig, Spacing, Survey, TeaCache, Window, file,
};

/// The bare loop over given tensors: what a prompt and a seed would have made of them is in a file.
///
/// The folder has `transformer/` (`config.json` and weights), perhaps `infusenet/` (the same), `inputs.safetensors` (`latents` `[1, tokens, channels]`,
/// `prompt_embeds` `[1, text, joint]`, `pooled_prompt_embeds` `[1, pooled]`; with an InfuseNet also `id_tokens` `[1, ids, joint]` and `control_latents`
/// `[1, tokens, channels]`) and `run.json` (`steps`, `latent_height` and `latent_width` in tokens, `guidance`; with an InfuseNet perhaps `infusenet_guidance`,
/// `conditioning_scale`, `guidance_start` and `guidance_end`; perhaps `teacache_threshold`; perhaps `true_cfg_scale`, for which `inputs.safetensors` has
/// `negative_prompt_embeds` and `negative_pooled_prompt_embeds` too).
#[derive(Debug)]
pub struct Trajectory {
    transformer: Transformer,
    net: Option<InfuseNet>,
    /// Of both.
    units: Arc<Units>,
    schedule: Schedule,
    grid: Grid,
    run: Run,
    inputs: Inputs,
}

/// `run.json`.
#[derive(Debug, Deserialize)]
struct Run {
    steps: usize,
    latent_height: usize,
    latent_width: usize,
    guidance: f32,
    #[serde(default = "one")]
    infusenet_guidance: f32,
    #[serde(default = "one")]
    conditioning_scale: f32,
    #[serde(default)]
    guidance_start: Option<f64>,
    #[serde(default)]
    guidance_end: Option<f64>,
    #[serde(default)]
    teacache_threshold: Option<f64>,
    #[serde(default)]
    true_cfg_scale: Option<f32>,
}

const fn one() -> f32 {
    1.0
}

#[derive(Debug)]
struct Inputs {
    latents: Matrix,
    positive: Told,
    negative: Option<Told>,
    portrait: Option<Portrait>,
}

/// A prompt, encoded.
#[derive(Debug)]
struct Told {
    states: Matrix,
    pooled: Matrix,
}

/// What an InfuseNet is told.
#[derive(Debug)]
struct Portrait {
    tokens: Matrix,
    control: Matrix,
}

/// Rows of equal length.
#[derive(Debug)]
struct Matrix {
    values: Vec<f32>,
    shape: [usize; 2],
}

/// What the loop made.
#[derive(Clone, Debug)]
pub struct Latents {
    /// After each step, packed `[tokens, channels]`; none where memory has no bytes (`Sim`).
    pub steps: Option<Vec<Vec<f32>>>,
    /// Shape of each, with the batch: `[1, tokens, channels]`.
    pub shape: [usize; 3],
    /// Of each step, whether the blocks ran: with `TeaCache` not all do.
    pub ran: Vec<bool>,
    /// What it took.
    pub report: Report,
}

/// What the loop reads and no step changes.
struct Conditioned<B: Backend> {
    positive: Conditions<B>,
    negative: Option<Conditions<B>>,
    infusion: Option<Infusion<B>>,
}

/// The latents after each step, where memory has bytes, and of each step whether its blocks ran.
type Walked = (Option<Vec<Vec<f32>>>, Vec<bool>, (usize, Option<String>));

impl Trajectory {
    /// Opens a folder; weights are mapped, not touched. `dtype` is bf16 or f32.
    ///
    /// # Errors
    /// With file, tensor and numbers if something is missing or misshapen.
    pub fn open(path: &Path, promise: Unmodified, dtype: DType) -> Result<Self> {
        let run = Run::open(path)?;
        let folder = path.join("transformer");
        let config = lighterage_dit::Config::read(&folder.join("config.json"))?;
        let grid = Grid { rows: run.latent_height, columns: run.latent_width };
        let mut units = Units::default();
        let net = net(&path.join("infusenet"), promise, dtype, &mut units)?;
        let wanted =
            Wanted { config: &config, net: net.as_ref(), grid, has_negative: run.true_cfg_scale.is_some() };
        let inputs = Inputs::open(&path.join("inputs.safetensors"), promise, &wanted)?;
        let transformer = Transformer::new(config, &Checkpoint::open(&folder, promise)?, dtype, &mut units)?;
        let schedule =
            Schedule::new(Spacing::Diffusers, &SchedulerConfig::flux_dev(), run.steps, grid.tokens());
        Ok(Self { transformer, net, units: Arc::new(units), schedule, grid, run, inputs })
    }

    /// What it needs on a device with pages of this size: a dry pass.
    ///
    /// # Errors
    /// What the transformer reports.
    pub fn survey(&self, page_bytes: u64) -> Result<Survey> {
        Survey::take(page_bytes, None, |stage| self.walk(stage))
    }

    /// Runs the loop by a forecast, and reads the latents after every step.
    ///
    /// # Errors
    /// [`Error::HostShortage`] before anything is done, [`Error::Cancelled`] or [`Error::CancelledBefore`] if the observer says so, or what device,
    /// pager and transformer report.
    pub fn run<B: Backend>(
        &self,
        device: &Device<B>,
        forecast: &Forecast,
        observer: &mut dyn Observer,
    ) -> Result<Latents> {
        forecast.check_host(device)?;
        let mut stage = Stage::new(device, Weights::Planned(forecast), observer)?;
        let (steps, ran, (steps_replayed, not_replayed)) = self.walk(&mut stage)?;
        let report = Report::new(device, self.schedule.steps(), &stage.into_seen());
        let steps_computed = ran.iter().filter(|ran| **ran).count();
        let report = Report { steps_computed, steps_replayed, not_replayed, ..report };
        let channels = self.transformer.config().in_channels;
        Ok(Latents { steps, shape: [1, self.grid.tokens(), channels], ran, report })
    }

    fn walk<B: Backend>(&self, stage: &mut Stage<'_, B>) -> Result<Walked> {
        let told = stage.phase(Phase::Modulation, &self.units, |queue, pager, _| self.tell(queue, pager))?;
        let (mut kept, mut total, steps) = (Vec::new(), 0, self.schedule.steps());
        let segments = self.window().segments(steps);
        stage.repeats(Segment::turns(&segments));
        let segments = if stage.is_dry() { Segment::samples(segments) } else { segments };
        let (ran, replayed) =
            stage.phase_beside(Phase::Denoise, &self.units, &self.beside(), |queue, lent, observer| {
                let mut denoiser = self.denoiser(queue, told)?;
                let kind_of_each = |Segment { steps, is_infused }| steps.map(move |step| (step, is_infused));
                for (step, is_infused) in segments.into_iter().flat_map(kind_of_each) {
                    if observer.cancelled() {
                        return Err(Error::Cancelled { done: step, steps });
                    }
                    denoiser.advance(lent, step, is_infused)?;
                    kept.extend(queue.read_f32(denoiser.latents())?);
                    total += 1;
                    observer.step(step + 1, steps);
                }
                let (replayed, refused) = denoiser.replayed();
                Ok((denoiser.ran().to_vec(), (replayed, refused.map(str::to_owned))))
            })?;
        Ok(((kept.len() == total).then_some(kept), ran, replayed))
    }

    fn tell<B: Backend>(&self, queue: &Queue<B>, pager: &Pager<B>) -> Result<Conditioned<B>> {
        let upload = |matrix: &Matrix, tag| {
            queue.upload_as(self.transformer.dtype(), &matrix.values, &matrix.shape, tag)
        };
        let conditions = |told: &Told| {
            let (states, pooled) = (upload(&told.states, "states")?, upload(&told.pooled, "pooled")?);
            let (states, pooled) = (states.view(), pooled.view());
            let prompted = Prompted { states, pooled, guidance: self.run.guidance };
            Conditions::new(queue, pager, &self.transformer, &prompted, &self.schedule)
        };
        let infusion = match (&self.net, &self.inputs.portrait) {
            (Some(net), Some(portrait)) => {
                let pooled = upload(&self.inputs.positive.pooled, "pooled")?;
                let (tokens, control) =
                    (upload(&portrait.tokens, "tokens")?, upload(&portrait.control, "control")?);
                let guidance = self.run.infusenet_guidance;
                let (tokens, pooled, control) = (tokens.view(), pooled.view(), control.view());
                let portrayed = Portrayed { tokens, pooled, control, guidance };
                Some(Infusion::new(queue, pager, net, &portrayed, &self.schedule)?)
            }
            _ => None,
        };
        let positive = conditions(&self.inputs.positive)?;
        let negative = self.inputs.negative.as_ref().map(conditions).transpose()?;
        Ok(Conditioned { positive, negative, infusion })
    }

    fn denoiser<B: Backend>(&self, queue: &Queue<B>, told: Conditioned<B>) -> Result<Denoiser<'_, B>> {
        let Conditioned { positive, negative, infusion } = told;
        let noise = &self.inputs.latents.values;
        let denoiser = Denoiser::new(queue, &self.transformer, &self.schedule, positive, self.grid, noise)?;
        let infused = match (&self.net, infusion) {
            // Where it works on no step, steps are as if it were not there.
            (Some(net), Some(infusion)) if self.window().is_open(self.schedule.steps()) => {
                Some(Infused::new(queue, net, infusion, self.grid, self.run.conditioning_scale)?)
            }
            _ => None,
        };
        let denoiser = denoiser.infused(infused);
        let denoiser = match negative.zip(self.run.true_cfg_scale) {
            Some((negative, scale)) => denoiser.against(negative, scale)?,
            None => denoiser,
        };
        denoiser.cached(self.cache())
    }

    fn cache(&self) -> Option<TeaCache> {
        self.run.teacache_threshold.map(|threshold| TeaCache { threshold, keeps_infusenet: false })
    }

    fn window(&self) -> Window {
        let (start, end) = (self.run.guidance_start.unwrap_or(0.0), self.run.guidance_end.unwrap_or(1.0));
        if self.net.is_some() { Window { start, end } } else { Window::ALL }
    }

    fn beside(&self) -> Vec<UnitId> {
        if self.cache().is_some_and(|cache| cache.can_skip()) { self.transformer.edges() } else { Vec::new() }
    }
}

/// The InfuseNet of a folder, if there is one.
fn net(folder: &Path, promise: Unmodified, dtype: DType, units: &mut Units) -> Result<Option<InfuseNet>> {
    if !folder.exists() {
        return Ok(None);
    }
    let config = lighterage_dit::Config::read(&folder.join("config.json"))?;
    Ok(Some(InfuseNet::new(config, &Checkpoint::open(folder, promise)?, dtype, units)?))
}

impl Run {
    fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("run.json");
        let run: Self = file::json(&path)?;
        let refuse = |field, got: String, expected: &str| {
            Err(Error::Config { path: path.clone(), field, got, expected: expected.to_owned() })
        };
        for (field, got) in
            [("steps", run.steps), ("latent_height", run.latent_height), ("latent_width", run.latent_width)]
        {
            // A thousand steps, and a side of 16384 pixels: as for whole pictures.
            if !(1..=1024).contains(&got) {
                return refuse(field, got.to_string(), "1 to 1024");
            }
        }
        Ok(run)
    }
}

/// What the tensors are for.
struct Wanted<'a> {
    config: &'a lighterage_dit::Config,
    net: Option<&'a InfuseNet>,
    grid: Grid,
    has_negative: bool,
}

impl Inputs {
    fn open(path: &Path, promise: Unmodified, wanted: &Wanted<'_>) -> Result<Self> {
        let Wanted { config, net, grid, has_negative } = *wanted;
        let file = File { path: path.to_owned(), tensors: Checkpoint::open(path, promise)? };
        let told = |states, pooled| -> Result<Told> {
            Ok(Told {
                states: file.matrix(states, None, config.joint_attention_dim)?,
                pooled: file.matrix(pooled, Some(1), config.pooled_projection_dim)?,
            })
        };
        let negative = has_negative.then(|| told("negative_prompt_embeds", "negative_pooled_prompt_embeds"));
        let portrait = |net: &InfuseNet| -> Result<Portrait> {
            Ok(Portrait {
                tokens: file.matrix("id_tokens", None, net.config().joint_attention_dim)?,
                control: file.matrix("control_latents", Some(grid.tokens()), net.config().in_channels)?,
            })
        };
        Ok(Self {
            latents: file.matrix("latents", Some(grid.tokens()), config.in_channels)?,
            positive: told("prompt_embeds", "pooled_prompt_embeds")?,
            negative: negative.transpose()?,
            portrait: net.map(portrait).transpose()?,
        })
    }
}

struct File {
    path: PathBuf,
    tensors: Checkpoint,
}

impl File {
    /// A tensor of `[1, rows, columns]` or `[rows, columns]`, f32 or bf16.
    fn matrix(&self, name: &'static str, rows: Option<usize>, columns: usize) -> Result<Matrix> {
        let tensor = self.tensors.tensor(name)?;
        let refuse = |expected: String, got: String| Error::Input {
            path: self.path.clone(),
            tensor: name,
            expected,
            got,
        };
        let found = match *tensor.shape() {
            [found_rows, found_columns] | [1, found_rows, found_columns] => [found_rows, found_columns],
            _ => [0, 0],
        };
        let wanted = [rows.unwrap_or(found[0]).max(1), columns];
        if found != wanted {
            return Err(refuse(
                format!("{wanted:?}, with or without a batch of 1"),
                format!("{:?}", tensor.shape()),
            ));
        }
        let values = match tensor.dtype() {
            DType::F32 => {
                tensor.bytes().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
            }
            DType::Bf16 => tensor
                .bytes()
                .as_chunks::<2>()
                .0
                .iter()
                .map(|bytes| bf16::from_le_bytes(*bytes).to_f32())
                .collect(),
            other => return Err(refuse("F32 or BF16".to_owned(), other.to_string())),
        };
        Ok(Matrix { values, shape: found })
    }
}
