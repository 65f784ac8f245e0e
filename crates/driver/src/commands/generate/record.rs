use std::path::PathBuf;

use lighterage_device::Info;
use lighterage_pager::Plan;
use lighterage_pipeline::{Forecast, Phase, PhaseForecast, PhaseReport, Picture};
use serde::Serialize;

use crate::device::DeviceArguments;

/// The plan of a run, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Planned {
    budget_bytes: u64,
    /// The smallest budget that would do.
    minimum_bytes: u64,
    /// The budget from which on nothing is streamed.
    maximum_bytes: u64,
    peak_bytes: u64,
    /// What the driver takes of all these.
    taken_bytes: u64,
    /// Pinned, for converted weights.
    host_bytes: u64,
    phases: Vec<PlannedPhase>,
}

#[derive(Debug, Serialize)]
struct PlannedPhase {
    phase: String,
    activations_bytes: u64,
    resident_bytes: u64,
    ring_bytes: u64,
    streamed_bytes_per_cycle: u64,
    peak_bytes: u64,
    host_bytes: u64,
}

impl Planned {
    pub(super) fn new(forecast: &Forecast, maximum_bytes: u64) -> Self {
        Self {
            budget_bytes: forecast.budget_bytes,
            minimum_bytes: forecast.minimum_bytes,
            maximum_bytes,
            peak_bytes: forecast.peak_bytes(),
            taken_bytes: forecast.taken_bytes,
            host_bytes: forecast.host_bytes(),
            phases: forecast.phases.iter().map(PlannedPhase::new).collect(),
        }
    }
}

impl PlannedPhase {
    fn new(planned: &PhaseForecast) -> Self {
        Self {
            phase: planned.phase.to_string(),
            activations_bytes: planned.activations_bytes,
            resident_bytes: planned.plan.resident_bytes(),
            ring_bytes: planned.plan.ring_bytes(),
            streamed_bytes_per_cycle: planned.plan.streamed_bytes(),
            peak_bytes: planned.peak_bytes(),
            host_bytes: planned.host_bytes,
        }
    }
}

/// What a picture took, as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    output: PathBuf,
    seed: u64,
    width: usize,
    height: usize,
    steps: usize,
    steps_computed: usize,
    steps_replayed: usize,
    not_replayed: Option<String>,
    cap_bytes: u64,
    pub(super) peak_bytes: u64,
    planned_peak_bytes: u64,
    /// In use on the device at the end and unknown to the ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    unaccounted_bytes: Option<i64>,
    pub(super) seconds: f64,
    seconds_per_step: f64,
    #[serde(flatten)]
    gemm: Gemm,
    phases: Vec<RanPhase>,
}

/// Who multiplied, where that was not left to our own kernels and their model.
#[derive(Debug, Default, Serialize)]
pub(super) struct Gemm {
    /// SHA-256 of the table that was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    gemm_table_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gemm_library: Option<String>,
}

impl Gemm {
    pub(super) fn new(device: &DeviceArguments, info: &Info) -> Self {
        Self {
            gemm_table_sha256: device.place.gemm_table.as_ref().map(|table| table.sha256.clone()),
            gemm_library: info.product_library.clone(),
        }
    }
}

#[derive(Debug, Serialize)]
struct RanPhase {
    phase: String,
    seconds: f64,
    activations_bytes: u64,
    /// Activations that the survey did not foresee.
    #[serde(skip_serializing_if = "is_zero")]
    unplanned: u64,
    copied_bytes: u64,
    /// Page-locked in the files, and elsewhere.
    registered_bytes: u64,
    pinned_bytes: u64,
}

impl Record {
    pub(super) fn new(output: PathBuf, seed: u64, picture: &Picture, forecast: &Forecast) -> Self {
        let report = &picture.report;
        Self {
            output,
            seed,
            width: picture.width,
            height: picture.height,
            steps: report.steps,
            steps_computed: report.steps_computed,
            steps_replayed: report.steps_replayed,
            not_replayed: report.not_replayed.clone(),
            cap_bytes: report.cap_bytes,
            peak_bytes: report.peak_bytes,
            planned_peak_bytes: forecast.peak_bytes(),
            unaccounted_bytes: None,
            seconds: report.seconds(),
            seconds_per_step: report.seconds_per_step(),
            gemm: Gemm::default(),
            phases: report.phases.iter().map(RanPhase::new).collect(),
        }
    }
}

impl Record {
    /// With a word about who multiplied.
    pub(super) fn by(self, gemm: Gemm) -> Self {
        Self { gemm, ..self }
    }

    /// With what the ledger does not know.
    pub(super) fn with_unaccounted(self, unaccounted_bytes: Option<i64>) -> Self {
        Self { unaccounted_bytes, ..self }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl RanPhase {
    fn new(report: &PhaseReport) -> Self {
        let PhaseReport {
            phase,
            seconds,
            activations_bytes,
            unplanned,
            copied_bytes,
            registered_bytes,
            pinned_bytes,
        } = *report;
        let phase = phase.to_string();
        Self { phase, seconds, activations_bytes, unplanned, copied_bytes, registered_bytes, pinned_bytes }
    }
}

/// The plan of the loop.
pub(super) fn denoise(forecast: &Forecast) -> Option<&Plan> {
    forecast.phases.iter().find(|planned| planned.phase == Phase::Denoise).map(|planned| &planned.plan)
}
