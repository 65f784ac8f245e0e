use lighterage_device::Profile;
use lighterage_pager::{Limit, Turn};
use lighterage_pipeline::{Forecast, Survey};
use serde::Serialize;

use crate::size::Size;

/// What is to be expected, for many budgets.
#[derive(Debug, Serialize)]
pub(super) struct Outlook {
    pub(super) gpu: String,
    pub(super) link_bytes_per_second: f64,
    pub(super) steps: usize,
    /// The smallest budget that runs.
    pub(super) minimum_bytes: u64,
    /// From here on a step takes at most 2 % more than with everything resident.
    pub(super) knee_bytes: u64,
    /// From here on everything is resident.
    pub(super) maximum_bytes: u64,
    pub(super) rows: Vec<Row>,
}

/// One budget.
#[derive(Debug, Default, Serialize)]
pub(super) struct Row {
    pub(super) budget_bytes: u64,
    /// Why it does not run, if it does not: the numbers of the other fields are then 0.
    pub(super) refused: Option<String>,
    pub(super) peak_bytes: u64,
    pub(super) resident_bytes: u64,
    pub(super) ring_bytes: u64,
    pub(super) streamed_bytes_per_step: u64,
    pub(super) seconds_per_step: f64,
    pub(super) bound_seconds_per_step: f64,
    /// `compute` or `link`.
    pub(super) limit: &'static str,
    pub(super) seconds: f64,
    pub(super) pinned_bytes: u64,
    pub(super) pageable_bytes: u64,
}

/// How much slower than the fastest the knee may be.
const KNEE: f64 = 1.02;
/// How often the range of budgets is halved in search of it: to 16 MiB in 128 GiB.
const HALVINGS: u32 = 13;

impl Outlook {
    pub(super) fn new(survey: &Survey, profile: &Profile, budgets: &[u64], steps: usize) -> Self {
        Self {
            gpu: profile.name.clone(),
            link_bytes_per_second: profile.rates.link_bytes,
            steps,
            minimum_bytes: survey.minimum_bytes(),
            knee_bytes: knee(survey),
            maximum_bytes: survey.maximum_bytes(),
            rows: budgets.iter().map(|budget| Row::new(survey, *budget)).collect(),
        }
    }
}

/// The smallest budget, nearly, at which a step is about as fast as it gets.
fn knee(survey: &Survey) -> u64 {
    let seconds = |budget| survey.within(budget).ok().as_ref().and_then(turn).map(|turn| turn.seconds);
    let (mut low, mut high) = (survey.minimum_bytes(), survey.maximum_bytes());
    let Some(fastest) = seconds(high) else { return high };
    let is_enough = |budget| seconds(budget).is_some_and(|seconds| seconds <= KNEE * fastest);
    if is_enough(low) {
        return low;
    }
    for _ in 0..HALVINGS {
        let middle = low.midpoint(high);
        if is_enough(middle) { high = middle } else { low = middle }
    }
    high
}

fn turn(forecast: &Forecast) -> Option<Turn> {
    forecast.denoise()?.turns().first().copied()
}

impl Row {
    fn new(survey: &Survey, budget_bytes: u64) -> Self {
        let forecast = match survey.within(budget_bytes) {
            Ok(forecast) => forecast,
            Err(refused) => {
                return Self { budget_bytes, refused: Some(refused.to_string()), ..Self::default() };
            }
        };
        let turn = turn(&forecast).unwrap_or_default();
        let denoise = forecast.denoise();
        Self {
            budget_bytes,
            refused: None,
            peak_bytes: forecast.peak_bytes(),
            resident_bytes: denoise.map_or(0, lighterage_pager::Plan::resident_bytes),
            ring_bytes: denoise.map_or(0, lighterage_pager::Plan::ring_bytes),
            streamed_bytes_per_step: turn.streamed_bytes,
            seconds_per_step: turn.seconds,
            bound_seconds_per_step: turn.bound_seconds,
            limit: match turn.limit() {
                Limit::Compute => "compute",
                Limit::Link => "link",
            },
            seconds: forecast.seconds(),
            pinned_bytes: forecast.pinned_bytes(),
            pageable_bytes: forecast.pageable_bytes(),
        }
    }

    /// For the table.
    pub(super) fn cells(&self) -> Vec<String> {
        if self.refused.is_some() {
            return vec![Size(self.budget_bytes).to_string(), "does not fit".to_owned()];
        }
        vec![
            Size(self.budget_bytes).to_string(),
            Size(self.peak_bytes).to_string(),
            Size(self.resident_bytes).to_string(),
            Size(self.ring_bytes).to_string(),
            Size(self.streamed_bytes_per_step).to_string(),
            format!("{:.4}", self.seconds_per_step),
            format!("{:.4}", self.bound_seconds_per_step),
            self.limit.to_owned(),
            format!("{:.1}", self.seconds),
            Size(self.pinned_bytes).to_string(),
            Size(self.pageable_bytes).to_string(),
        ]
    }
}
