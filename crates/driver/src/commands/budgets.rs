//! One picture at many budgets: which, and what each run took.

use std::path::PathBuf;

use lighterage_device::{Backend, Device};
use lighterage_pipeline::{
    Achieved, Extras, Face, Forecast, InfiniteYou, Job, Keep, Model, Options, Picture, Survey,
};
use lighterage_shape::DType;
use serde::Serialize;

use super::plan::Sides;
use super::read_embedding;
use crate::device::PlaceArguments;
use crate::failure::{Failure, Result};
use crate::inputs::Input;
use crate::report::{self, Seen};
use crate::size::Size;
use crate::{mapping, model_path, output};

/// Which picture is made at every budget.
#[derive(Debug, clap::Args)]
pub(super) struct PictureArguments {
    /// The model's folder, in the layout of diffusers [default: the bundled demo model].
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Size of the picture in pixels [default: the model's].
    #[arg(long, value_name = "WxH")]
    size: Option<Sides>,
    /// A person's embedding, from a safetensors file: a face in every step.
    #[arg(long, value_name = "FILE[:NAME]")]
    id_embedding: Option<String>,
    /// InfiniteYou's folder, for the face [default: with the bundled model its own].
    #[arg(long, value_name = "DIR", requires = "id_embedding")]
    infinite_you: Option<PathBuf>,
}

impl PictureArguments {
    /// The picture, in so many steps, or in the model's own number.
    pub(super) fn job(&self, prompt: &str, steps: Option<usize>, dtype: DType) -> Result<Job> {
        let path = self.model.clone().unwrap_or_else(model_path::bundled);
        let model = Model::open(&path, mapping::promise())?;
        let infinite_you = self.infinite_you()?;
        let options =
            infinite_you.as_ref().map_or_else(|| model.options(prompt), |you| you.options(&model, prompt));
        let Sides([width, height]) = self.size.unwrap_or(Sides([options.width, options.height]));
        let embedding = self.id_embedding.as_deref().map(read_embedding).transpose()?;
        let face = embedding.map(|embedding| Face::new(embedding.values().to_vec()));
        let steps = steps.unwrap_or(options.steps);
        let extras = Extras { infinite_you: infinite_you.as_ref(), adapters: None };
        Ok(Job::with(&model, extras, Options { width, height, steps, dtype, face, ..options })?)
    }

    /// What it reads.
    pub(super) fn inputs(&self) -> Vec<Input> {
        let mut inputs = Input::model(&self.model.clone().unwrap_or_else(model_path::bundled));
        inputs.extend(self.infinite_you.as_ref().map(|path| Input::new("--infinite-you", path)));
        inputs.extend(self.id_embedding.iter().flat_map(|given| Input::with_suffix("--id-embedding", given)));
        inputs
    }

    /// Nothing without a face.
    fn infinite_you(&self) -> Result<Option<InfiniteYou>> {
        if self.id_embedding.is_none() {
            return Ok(None);
        }
        let bundled = || self.model.is_none().then(model_path::bundled_infinite_you);
        let Some(path) = self.infinite_you.clone().or_else(bundled) else {
            let why = "a face needs --infinite-you DIR, since the model is not the bundled one";
            return Err(Failure::Usage(why.to_owned()));
        };
        Ok(Some(InfiniteYou::open(&path, mapping::promise())?))
    }
}

/// Budgets where none are given.
const BUDGETS: u64 = 8;

/// Those that were given, else eight, evenly from the smallest that runs to the one where everything is resident, or to what the device has.
///
/// A budget that is too small is refused here, before anything runs at any other.
pub(super) fn forecasts(given: &[Size], survey: &Survey, limit_bytes: u64) -> Result<Vec<Forecast>> {
    let budgets = if given.is_empty() {
        evenly(survey.minimum_bytes(), survey.maximum_bytes(), limit_bytes)
    } else {
        given.iter().map(|size| size.0).collect()
    };
    budgets.into_iter().map(|budget| Ok(survey.within(budget)?)).collect()
}

fn evenly(least: u64, most: u64, limit: u64) -> Vec<u64> {
    if limit < least {
        return vec![limit];
    }
    let most = most.min(limit);
    (0..BUDGETS).map(|index| least + (most - least) * index / (BUDGETS - 1)).collect()
}

/// The survey for what is left of a device's memory beside what its driver takes, as `--vram` counts.
pub(super) fn survey<B: Backend>(job: &Job, device: &Device<B>, place: &PlaceArguments) -> Result<Survey> {
    if !device.info().has_bytes {
        let why = "--device sim computes nothing: `plan` shows what a simulated card would do";
        return Err(Failure::Usage(why.to_owned()));
    }
    let survey = place.plans(job.survey(device.info().page_bytes)?);
    Ok(survey.beside(device.ledger().granted_bytes()))
}

/// What a run took of time and memory.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Took {
    pub(super) budget_bytes: u64,
    /// The most bytes granted at once: what the driver takes, activations and weights.
    pub(super) peak_bytes: u64,
    /// Of weights, in a step behind the first.
    pub(super) streamed_bytes_per_step: u64,
    /// Of weights, in all phases, the residents' loading included.
    pub(super) copied_bytes: u64,
    /// The most of a phase that was page-locked in the files, and elsewhere on the host.
    pub(super) registered_bytes: u64,
    pub(super) pinned_bytes: u64,
    /// Steps that were done by graphs.
    pub(super) steps_replayed: usize,
    /// Why no step was recorded any more, if one could not be.
    pub(super) not_replayed: Option<String>,
    /// Of all phases.
    pub(super) seconds: f64,
    /// Of the loop by the number of its steps, the first one's loading included.
    pub(super) seconds_per_step: f64,
    /// From the beginning of the run to the end of its first step; none, as the other two, where streams have no time: in a drawn interleaving.
    pub(super) first_step_after_seconds: Option<f64>,
    /// Median of the steps behind the first, which loads; of the first where there is no other.
    pub(super) step_seconds: Option<f64>,
    /// What part of a step the launches waited for weights: of the step that was looked at closely.
    pub(super) stalled_share: Option<f64>,
}

/// A run that is over.
pub(super) struct Ran {
    pub(super) picture: Picture,
    /// None where nothing was recorded.
    pub(super) seen: Option<Seen>,
    pub(super) took: Took,
}

impl Ran {
    /// Makes the picture on a device with the budget of the forecast as its cap.
    pub(super) fn new<B: Backend>(
        job: &Job,
        device: &Device<B>,
        forecast: &Forecast,
        keep: Keep,
    ) -> Result<Self> {
        device.ledger().set_cap_bytes(forecast.budget_bytes);
        device.ledger().reset_peak();
        // What was recorded before is another run's.
        drop(device.take_recording());
        let picture = job.run(device, forecast, keep, &mut ())?;
        let seen = Seen::take(device, forecast);
        let took = Took::new(forecast, &picture, seen.as_ref());
        report::not_replayed(&picture.report).iter().for_each(|line| output::note(line));
        Ok(Self { picture, seen, took })
    }
}

impl Took {
    fn new(forecast: &Forecast, picture: &Picture, seen: Option<&Seen>) -> Self {
        let report = &picture.report;
        let [registered_bytes, pinned_bytes] = report.locked_bytes();
        let achieved = seen.map(|seen| &seen.achieved).filter(|achieved| !achieved.steps.is_empty());
        Self {
            budget_bytes: forecast.budget_bytes,
            peak_bytes: report.peak_bytes,
            streamed_bytes_per_step: forecast.denoise().map_or(0, lighterage_pager::Plan::streamed_bytes),
            copied_bytes: report.phases.iter().map(|phase| phase.copied_bytes).sum(),
            registered_bytes,
            pinned_bytes,
            steps_replayed: report.steps_replayed,
            not_replayed: report.not_replayed.clone(),
            seconds: report.seconds(),
            seconds_per_step: report.seconds_per_step(),
            first_step_after_seconds: achieved.map(|achieved| achieved.first_step_after_seconds),
            step_seconds: achieved.and_then(Achieved::median_seconds),
            stalled_share: achieved.and_then(|achieved| Some(achieved.stalled()?.share)),
        }
    }

    /// In one line, for whoever waits.
    pub(super) fn line(&self) -> String {
        let figure = |value: Option<f64>, unit: &str| {
            value.map_or_else(String::new, |value| format!(", {value:.4} {unit}"))
        };
        format!(
            "{}: peak {}, {} streamed a step{}{}{}, {:.1} s in all",
            Size(self.budget_bytes),
            Size(self.peak_bytes),
            Size(self.streamed_bytes_per_step),
            figure(self.step_seconds, "s/step"),
            self.stalled_share
                .map_or_else(String::new, |share| format!(", {:.1} % of it stalled", 100.0 * share)),
            figure(self.first_step_after_seconds, "s to the first step"),
            self.seconds,
        )
    }
}

/// Seconds in a cell, or a dash.
pub(super) fn cell(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.4}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_go_from_the_smallest_to_the_largest_that_there_is() {
        assert_eq!(evenly(100, 800, u64::MAX), [100, 200, 300, 400, 500, 600, 700, 800]);
        assert_eq!(evenly(100, 800, 450), [100, 150, 200, 250, 300, 350, 400, 450]);
        assert_eq!(evenly(100, 800, 99), [99], "to be refused");
        assert_eq!(evenly(100, 100, 100), [100; 8]);
    }
}
