//! The bundled model, its golden cases, and devices to run them on.
#![allow(dead_code, reason = "every test file uses a part of it")]
use std::path::PathBuf;

use lighterage_checkpoint::Unmodified;
use lighterage_device::{Device, Host, HostConfig, Ledger};
use lighterage_pipeline::{Job, Keep, Model, Options, Picture, Survey};
use lighterage_shape::DType;
use lighterage_testkit::folder;
use serde::Deserialize;

/// The page of `Host` by default.
pub(crate) const PAGE_BYTES: u64 = 64 << 10;

/// One entry of `golden/demo/cases.json`.
#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) prompt: String,
    pub(crate) seed: u64,
    pub(crate) steps: usize,
    pub(crate) guidance: f32,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

/// The cases without a face: 0 to 7.
pub(crate) fn cases() -> Vec<Case> {
    let text = std::fs::read(folder("demo").join("cases.json")).expect("cases.json");
    let mut cases: Vec<Case> = serde_json::from_slice(&text).expect("cases");
    cases.truncate(8);
    cases
}

pub(crate) fn promise() -> Unmodified {
    // SAFETY: nobody writes to the bundled model or the golden files while tests run.
    unsafe { Unmodified::promise() }
}

pub(crate) fn base() -> PathBuf {
    folder("").join("../../assets/demo/base")
}

pub(crate) fn model() -> Model {
    Model::open(&base(), promise()).expect("the bundled model")
}

impl Case {
    pub(crate) fn options(&self, model: &Model, dtype: DType) -> Options {
        Options {
            seed: self.seed,
            steps: self.steps,
            guidance: self.guidance,
            width: self.width,
            height: self.height,
            dtype,
            ..model.options(&self.prompt)
        }
    }
}

pub(crate) fn host(config: HostConfig, budget_bytes: u64) -> Device<Host> {
    Device::new(Host::new(config).expect("a host"), Ledger::new(budget_bytes), Ledger::new(1 << 30))
}

/// Runs a job at a budget that is neither the least nor enough for everything.
pub(crate) fn run_between(job: &Job) -> Picture {
    let survey = job.survey(PAGE_BYTES).expect("a dry pass");
    run(job, &survey, HostConfig::default(), between(&survey))
}

/// Half way from the least to everything.
pub(crate) fn between(survey: &Survey) -> u64 {
    let (least, most) = (survey.minimum_bytes(), survey.maximum_bytes());
    least + (most - least) / 2
}

/// Runs a job and holds it to its budget.
pub(crate) fn run(job: &Job, survey: &Survey, config: HostConfig, budget_bytes: u64) -> Picture {
    let device = host(config, budget_bytes);
    let forecast = survey.within(budget_bytes).expect("a feasible budget");
    let keep = Keep { latents: true, prompt: true, steps: false };
    let picture = job.run(&device, &forecast, keep, &mut ()).expect("a picture");
    assert!(device.ledger().peak_bytes() <= budget_bytes);
    assert_eq!(device.ledger().peak_bytes(), forecast.peak_bytes(), "the dry pass is exact");
    assert_eq!(device.ledger().granted_bytes(), 0, "everything is given back");
    for (phase, planned) in picture.report.phases.iter().zip(&forecast.phases) {
        assert_eq!(phase.unplanned, 0, "{phase:?}: every activation has its place from the survey");
        assert_eq!(phase.activations_bytes, planned.activations_bytes, "{phase:?}");
    }
    picture
}
