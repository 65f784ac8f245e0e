use lighterage_device::Profile;
use lighterage_pager::Limit;
use lighterage_pipeline::Survey;
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
    /// For a plot, where one was asked for: by budget, from the smallest on.
    #[serde(skip)]
    pub(super) curve: Vec<Point>,
}

/// A step within one budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) budget_bytes: u64,
    pub(super) seconds_per_step: f64,
    pub(super) bound_seconds_per_step: f64,
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
    /// From the beginning of the run to the end of its first step: all phases before the loop, page-locking and reading included.
    pub(super) first_step_seconds: f64,
    pub(super) seconds: f64,
    pub(super) pinned_bytes: u64,
    pub(super) pageable_bytes: u64,
}

/// How much slower than the fastest the knee may be.
const KNEE: f64 = 1.02;
/// How near to it the search ends.
const KNEE_BYTES: u64 = 3 << 20;
/// Budgets between the smallest and the largest at which a curve is looked up.
const CURVE: u32 = 32;

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
            curve: Vec::new(),
        }
    }

    /// With the curve for a plot: denser where it is steeper, at the small budgets, and with the knee and the budgets that were asked for.
    pub(super) fn with_curve(mut self, survey: &Survey) -> Self {
        let (least, most) = (self.minimum_bytes, self.maximum_bytes);
        let asked = self.rows.iter().map(|row| row.budget_bytes).max().unwrap_or(most);
        let end = asked.clamp(most + most / 20, 2 * most);
        let mut budgets: Vec<u64> = (0..=CURVE).map(|index| between(least, most, index)).collect();
        budgets.extend([self.knee_bytes, end]);
        budgets.extend(
            self.rows.iter().map(|row| row.budget_bytes).filter(|asked| (least..end).contains(asked)),
        );
        budgets.sort_unstable();
        budgets.dedup();
        let point = |budget_bytes| {
            let turn = survey.turn_within(budget_bytes)?;
            let (seconds_per_step, bound_seconds_per_step) = (turn.seconds, turn.bound_seconds);
            Some(Point { budget_bytes, seconds_per_step, bound_seconds_per_step })
        };
        self.curve = budgets.into_iter().filter_map(point).collect();
        self
    }
}

/// Of a geometric row.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between two budgets that fit"
)]
fn between(least: u64, most: u64, index: u32) -> u64 {
    let share = f64::from(index) / f64::from(CURVE);
    let budget = least.max(1) as f64 * (most as f64 / least.max(1) as f64).powf(share);
    (budget as u64).clamp(least, most)
}

/// The smallest budget, nearly, at which a step is about as fast as it gets.
fn knee(survey: &Survey) -> u64 {
    let seconds = |budget| survey.turn_within(budget).map(|turn| turn.seconds);
    let (mut low, mut high) = (survey.minimum_bytes(), survey.maximum_bytes());
    let Some(fastest) = seconds(high) else { return high };
    let is_enough = |budget| seconds(budget).is_some_and(|seconds| seconds <= KNEE * fastest);
    if is_enough(low) {
        return low;
    }
    while high - low > KNEE_BYTES {
        let middle = low.midpoint(high);
        if is_enough(middle) { high = middle } else { low = middle }
    }
    high
}

/// Over the cells of a row.
pub(super) const HEAD: [&str; 12] = [
    "budget",
    "peak",
    "resident",
    "ring",
    "streamed/step",
    "s/step",
    "bound",
    "limit",
    "to step 1, s",
    "total s",
    "pinned",
    "pageable",
];

impl Row {
    fn new(survey: &Survey, budget_bytes: u64) -> Self {
        let forecast = match survey.within(budget_bytes) {
            Ok(forecast) => forecast,
            Err(refused) => {
                return Self { budget_bytes, refused: Some(refused.to_string()), ..Self::default() };
            }
        };
        let denoise = forecast.denoise();
        let turn = denoise.and_then(|plan| plan.turns().first().copied()).unwrap_or_default();
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
            first_step_seconds: forecast.first_step_seconds(),
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
            format!("{:.1}", self.first_step_seconds),
            format!("{:.1}", self.seconds),
            Size(self.pinned_bytes).to_string(),
            Size(self.pageable_bytes).to_string(),
        ]
    }
}
