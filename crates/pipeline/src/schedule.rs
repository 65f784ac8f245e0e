//! Which noise levels a run passes through.
use std::path::Path;

use serde::Deserialize;

use crate::file;
use crate::{Error, Result};

/// Which rule spaces the noise levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spacing {
    /// As diffusers' `FlowMatchEulerDiscreteScheduler` does it, by the model's `scheduler_config.json`: shifted by the picture's size where the
    /// model says so.
    #[default]
    Diffusers,
    /// As `DiffSynth` does it: shift 3 at every size, down to sigma 0.003 / 1.002.
    DiffSynth,
    /// The same as it was until April 2025, when InfiniteYou came to it: a bf16 transformer is told timesteps that nobody rounded.
    DiffSynthOld,
}

/// The part of `scheduler_config.json` that decides about the noise levels.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    /// Whether the shift follows the number of image tokens.
    pub use_dynamic_shifting: bool,
    /// The shift at [`base_image_seq_len`](Self::base_image_seq_len) tokens.
    pub base_shift: f64,
    /// The shift at [`max_image_seq_len`](Self::max_image_seq_len) tokens.
    pub max_shift: f64,
    /// Image tokens of the smaller anchor.
    pub base_image_seq_len: u32,
    /// Image tokens of the larger anchor.
    pub max_image_seq_len: u32,
    /// The shift where it is static.
    pub shift: f64,
    /// Timesteps are sigmas times this.
    pub num_train_timesteps: f32,
    time_shift_type: String,
    shift_terminal: Option<f64>,
    invert_sigmas: bool,
    stochastic_sampling: bool,
    use_beta_sigmas: bool,
    use_exponential_sigmas: bool,
    use_karras_sigmas: bool,
}

impl Default for SchedulerConfig {
    /// What diffusers takes for fields that a file leaves out.
    fn default() -> Self {
        Self {
            use_dynamic_shifting: false,
            base_shift: 0.5,
            max_shift: 1.15,
            base_image_seq_len: 256,
            max_image_seq_len: 4096,
            shift: 1.0,
            num_train_timesteps: 1000.0,
            time_shift_type: "exponential".to_owned(),
            shift_terminal: None,
            invert_sigmas: false,
            stochastic_sampling: false,
            use_beta_sigmas: false,
            use_exponential_sigmas: false,
            use_karras_sigmas: false,
        }
    }
}

impl SchedulerConfig {
    /// The dynamic shift of FLUX.1-dev, for runs without a `scheduler_config.json`.
    #[must_use]
    pub fn flux_dev() -> Self {
        Self { use_dynamic_shifting: true, shift: 3.0, ..Self::default() }
    }

    /// The levels of FLUX.1-schnell, which are not shifted, for runs without a `scheduler_config.json`.
    #[must_use]
    pub fn flux_schnell() -> Self {
        Self::default()
    }

    /// Reads `scheduler_config.json`.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Json`] if it cannot be read, [`Error::Config`] if it asks for a variant that FLUX does not use.
    pub fn open(path: &Path) -> Result<Self> {
        let config: Self = file::json(path)?;
        match config.unknown_variant() {
            None => Ok(config),
            Some((field, got, expected)) => {
                Err(Error::Config { path: path.to_owned(), field, got, expected: expected.to_owned() })
            }
        }
    }

    fn unknown_variant(&self) -> Option<(&'static str, String, &'static str)> {
        let flags = [
            ("invert_sigmas", self.invert_sigmas),
            ("stochastic_sampling", self.stochastic_sampling),
            ("use_beta_sigmas", self.use_beta_sigmas),
            ("use_exponential_sigmas", self.use_exponential_sigmas),
            ("use_karras_sigmas", self.use_karras_sigmas),
        ];
        if let Some((field, _)) = flags.into_iter().find(|(_, set)| *set) {
            return Some((field, "true".to_owned(), "false"));
        }
        if let Some(sigma) = self.shift_terminal.filter(|sigma| *sigma != 0.0) {
            return Some(("shift_terminal", sigma.to_string(), "null"));
        }
        if self.time_shift_type != "exponential" {
            return Some(("time_shift_type", self.time_shift_type.clone(), "exponential"));
        }
        let timesteps = f64::from(self.num_train_timesteps);
        // The dynamic ones are exponents.
        let exponents = -100.0..=100.0;
        let rules = [
            (
                "base_image_seq_len",
                self.base_image_seq_len < self.max_image_seq_len,
                self.base_image_seq_len.into(),
                "below max_image_seq_len",
            ),
            ("num_train_timesteps", (1.0..=1e6).contains(&timesteps), timesteps, "1 to 1000000"),
            ("shift", (1e-6..=1e6).contains(&self.shift), self.shift, "0.000001 to 1000000"),
            ("base_shift", exponents.contains(&self.base_shift), self.base_shift, "-100 to 100"),
            ("max_shift", exponents.contains(&self.max_shift), self.max_shift, "-100 to 100"),
        ];
        let broken = rules.into_iter().find(|(_, holds, ..)| !holds);
        broken.map(|(field, _, got, expected)| (field, got.to_string(), expected))
    }

    /// The exponent of the dynamic shift: a line through the two anchors.
    fn mu(&self, image_tokens: usize) -> f64 {
        let (low, high) = (f64::from(self.base_image_seq_len), f64::from(self.max_image_seq_len));
        let slope = (self.max_shift - self.base_shift) / (high - low);
        let offset = self.base_shift - slope * low;
        exact(image_tokens) * slope + offset
    }
}

/// The noise levels of a run, from pure noise downwards, and the timesteps that the transformer is told.
///
/// ```
/// use lighterage_pipeline::{Schedule, SchedulerConfig, Spacing};
/// let schedule = Schedule::new(Spacing::Diffusers, &SchedulerConfig::flux_dev(), 4, 4096);
/// assert_eq!((schedule.steps(), schedule.sigmas()[0], schedule.sigmas()[4]), (4, 1.0, 0.0));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    sigmas: Vec<f32>,
    timesteps: Vec<f32>,
    is_told_exactly: bool,
}

impl Schedule {
    /// The levels of `steps` steps (at least 1) for a picture of so many tokens (a token is 16 x 16 pixels).
    #[must_use]
    pub fn new(spacing: Spacing, config: &SchedulerConfig, steps: usize, image_tokens: usize) -> Self {
        let (mut sigmas, scale) = match spacing {
            Spacing::Diffusers => (diffusers(config, steps, image_tokens), config.num_train_timesteps),
            Spacing::DiffSynth | Spacing::DiffSynthOld => (diffsynth(steps), 1000.0),
        };
        let timesteps = sigmas.iter().map(|sigma| sigma * scale).collect();
        sigmas.push(0.0);
        Self { sigmas, timesteps, is_told_exactly: spacing == Spacing::DiffSynthOld }
    }

    /// How many steps.
    #[must_use]
    pub const fn steps(&self) -> usize {
        self.timesteps.len()
    }

    /// The level before each step, then the last one, zero.
    #[must_use]
    pub fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    /// What the transformer is told before each step, times 1000.
    #[must_use]
    pub fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    /// Whether a bf16 transformer is told the timesteps as they are; else they are rounded.
    #[must_use]
    pub const fn is_told_exactly(&self) -> bool {
        self.is_told_exactly
    }

    /// How far step `index` goes: the next level less this one, so a negative number.
    ///
    /// # Panics
    /// If there is no such step.
    #[must_use]
    pub fn delta(&self, index: usize) -> f32 {
        self.sigmas[index + 1] - self.sigmas[index]
    }
}

/// diffusers 0.42, `FluxPipeline` and `FlowMatchEulerDiscreteScheduler.set_timesteps`: levels are spaced in f64, rounded, then shifted in f32.
#[expect(clippy::cast_possible_truncation, reason = "rounded to f32 where numpy does")]
fn diffusers(config: &SchedulerConfig, steps: usize, image_tokens: usize) -> Vec<f32> {
    let even = linspace_f64(1.0, 1.0 / exact(steps), steps).map(|sigma| sigma as f32);
    if config.use_dynamic_shifting {
        let shift = config.mu(image_tokens).exp() as f32;
        even.map(|sigma| shift / (shift + (1.0 / sigma - 1.0))).collect()
    } else {
        let (shift, rest) = (config.shift as f32, (config.shift - 1.0) as f32);
        even.map(|sigma| shift * sigma / (1.0 + rest * sigma)).collect()
    }
}

/// `DiffSynth`'s `FlowMatchScheduler` with its settings for FLUX, in f32.
fn diffsynth(steps: usize) -> Vec<f32> {
    const SIGMA_MIN: f32 = 0.003 / 1.002;
    linspace_f32(1.0, SIGMA_MIN, steps).map(|sigma| 3.0 * sigma / (1.0 + 2.0 * sigma)).collect()
}

/// `numpy.linspace`: the last value is exact.
fn linspace_f64(start: f64, stop: f64, count: usize) -> impl Iterator<Item = f64> {
    let step = (stop - start) / exact(count.saturating_sub(1).max(1));
    (0..count)
        .map(move |index| if index > 0 && index + 1 == count { stop } else { start + exact(index) * step })
}

/// `torch.linspace`: the second half is counted from the end.
#[expect(clippy::cast_precision_loss, reason = "step counts are small")]
fn linspace_f32(start: f32, stop: f32, count: usize) -> impl Iterator<Item = f32> {
    let step = (stop - start) / count.saturating_sub(1).max(1) as f32;
    let from_start = move |index: usize| start + step * index as f32;
    let from_stop = move |index: usize| stop - step * (count - 1 - index) as f32;
    (0..count)
        .map(move |index| if index < count / 2 || count == 1 { from_start(index) } else { from_stop(index) })
}

/// A count as a float: counts here are far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
const fn exact(count: usize) -> f64 {
    count as f64
}
