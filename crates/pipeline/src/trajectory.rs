use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::bf16;
use lighterage_checkpoint::{Checkpoint, Unmodified};
use lighterage_device::{Backend, Device};
use lighterage_dit::Transformer;
use lighterage_pager::Units;
use lighterage_shape::DType;
use serde::Deserialize;

use crate::stage::{Stage, Weights};
use crate::{
    Conditions, Denoiser, Error, Forecast, Grid, Observer, Phase, Prompted, Report, Result, Schedule,
    SchedulerConfig, Spacing, Survey, file, tensor,
};

/// The bare loop over given tensors: what a prompt and a seed would have made of them is in a file.
///
/// The folder has `transformer/` (`config.json` and weights), `inputs.safetensors` (`latents` `[1, tokens, channels]`, `prompt_embeds`
/// `[1, text, joint]`, `pooled_prompt_embeds` `[1, pooled]`) and `run.json` (`steps`, `latent_height` and `latent_width` in tokens, `guidance`).
#[derive(Debug)]
pub struct Trajectory {
    transformer: Transformer,
    units: Arc<Units>,
    schedule: Schedule,
    grid: Grid,
    guidance: f32,
    inputs: Inputs,
}

/// `run.json`.
#[derive(Deserialize)]
struct Run {
    steps: usize,
    latent_height: usize,
    latent_width: usize,
    guidance: f32,
    #[serde(default)]
    teacache_threshold: Option<f32>,
}

#[derive(Debug)]
struct Inputs {
    latents: Vec<f32>,
    states: Matrix,
    pooled: Matrix,
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
    /// What it took.
    pub report: Report,
}

impl Trajectory {
    /// Opens a folder; weights are mapped, not touched. `dtype` is bf16 or f32.
    ///
    /// # Errors
    /// With file, tensor and numbers if something is missing or misshapen, or asks for an InfuseNet or `TeaCache`.
    pub fn open(path: &Path, promise: Unmodified, dtype: DType) -> Result<Self> {
        let run = Run::open(path)?;
        let folder = path.join("transformer");
        let config = lighterage_dit::Config::read(&folder.join("config.json"))?;
        let grid = Grid { rows: run.latent_height, columns: run.latent_width };
        let inputs = Inputs::open(&path.join("inputs.safetensors"), promise, &config, grid)?;
        let mut units = Units::default();
        let transformer = Transformer::new(config, &Checkpoint::open(&folder, promise)?, dtype, &mut units)?;
        let schedule =
            Schedule::new(Spacing::Diffusers, &SchedulerConfig::flux_dev(), run.steps, grid.tokens());
        Ok(Self { transformer, units: Arc::new(units), schedule, grid, guidance: run.guidance, inputs })
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
    /// [`Error::HostShortage`] before anything is done, [`Error::Cancelled`] if the observer says so, or what device, pager and transformer report.
    pub fn run<B: Backend>(
        &self,
        device: &Device<B>,
        forecast: &Forecast,
        observer: &mut dyn Observer,
    ) -> Result<Latents> {
        forecast.check_host(device.host_ledger().free_bytes())?;
        let mut stage = Stage::new(device, Weights::Planned(forecast), observer)?;
        let steps = self.walk(&mut stage)?;
        let report = Report::new(device, self.schedule.steps(), &stage.into_seen());
        let channels = self.transformer.config().in_channels;
        Ok(Latents { steps, shape: [1, self.grid.tokens(), channels], report })
    }

    fn walk<B: Backend>(&self, stage: &mut Stage<'_, B>) -> Result<Option<Vec<Vec<f32>>>> {
        let steps = if stage.is_dry() { 1 } else { self.schedule.steps() };
        let conditions = stage.phase(Phase::Modulation, &self.units, |queue, pager, _| {
            let dtype = self.transformer.dtype();
            let states = tensor::upload(
                queue,
                dtype,
                &self.inputs.states.values,
                &self.inputs.states.shape,
                "states",
            )?;
            let pooled = tensor::upload(
                queue,
                dtype,
                &self.inputs.pooled.values,
                &self.inputs.pooled.shape,
                "pooled",
            )?;
            let prompted = Prompted { states: states.view(), pooled: pooled.view(), guidance: self.guidance };
            Conditions::new(queue, pager, &self.transformer, &prompted, &self.schedule)
        })?;
        stage.repeats(&[self.schedule.steps() as u64]);
        stage.phase(Phase::Denoise, &self.units, |queue, pager, observer| {
            let noise = &self.inputs.latents;
            let denoiser =
                Denoiser::new(queue, &self.transformer, &self.schedule, conditions, self.grid, noise)?;
            let mut kept = Vec::with_capacity(steps);
            for step in 0..steps {
                if observer.cancelled() {
                    return Err(Error::Cancelled { done: step, steps });
                }
                pager.turn(0)?;
                denoiser.step(pager, step, None)?;
                kept.extend(tensor::read(queue, denoiser.latents())?);
                observer.step(step + 1, steps);
            }
            Ok((kept.len() == steps).then_some(kept))
        })
    }
}

impl Run {
    fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("run.json");
        let run: Self = file::json(&path)?;
        let refuse = |field, got: String, expected: &str| {
            Err(Error::Config { path: path.clone(), field, got, expected: expected.to_owned() })
        };
        if let Some(threshold) = run.teacache_threshold {
            return refuse(
                "teacache_threshold",
                threshold.to_string(),
                "null: there is no TeaCache here yet",
            );
        }
        if folder.join("infusenet").exists() {
            return refuse("infusenet", "there".to_owned(), "absent: there is no InfuseNet here yet");
        }
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

impl Inputs {
    fn open(path: &Path, promise: Unmodified, config: &lighterage_dit::Config, grid: Grid) -> Result<Self> {
        let file = File { path: path.to_owned(), tensors: Checkpoint::open(path, promise)? };
        let latents = file.matrix("latents", Some(grid.tokens()), config.in_channels)?;
        Ok(Self {
            latents: latents.values,
            states: file.matrix("prompt_embeds", None, config.joint_attention_dim)?,
            pooled: file.matrix("pooled_prompt_embeds", Some(1), config.pooled_projection_dim)?,
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
