use std::fmt;

use lighterage_device::{Backend, Device};

use crate::Phase;
use crate::stage::Seen;

/// What a run took.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The most bytes granted at once, of all that the device's ledger has seen.
    pub peak_bytes: u64,
    /// The ledger's cap.
    pub cap_bytes: u64,
    /// Steps of the loop.
    pub steps: usize,
    /// Those among them whose blocks ran: fewer with `TeaCache`.
    pub steps_computed: usize,
    /// Steps that were done by graphs.
    pub steps_replayed: usize,
    /// Why no step was recorded any more, if one could not be.
    pub not_replayed: Option<String>,
    /// In the order in which they ran.
    pub phases: Vec<PhaseReport>,
}

/// What one phase took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PhaseReport {
    /// Which.
    pub phase: Phase,
    /// From the release of the phase before to the end of its work.
    pub seconds: f64,
    /// Physical bytes of activations at their peak.
    pub activations_bytes: u64,
    /// Activations that the survey did not foresee, so that they have other places than planned: none, unless the run does something else than its survey.
    pub unplanned: u64,
    /// Bytes of weights copied to the device.
    pub copied_bytes: u64,
    /// Bytes of files that were page-locked where they lie.
    pub registered_bytes: u64,
    /// Other page-locked bytes of the host: of weights that were copied there, and stages.
    pub pinned_bytes: u64,
}

impl Report {
    pub(crate) fn new<B: Backend>(device: &Device<B>, steps: usize, seen: &[Seen]) -> Self {
        let phase = |seen: &Seen| PhaseReport {
            phase: seen.phase,
            seconds: seen.seconds,
            activations_bytes: seen.activations_bytes,
            unplanned: seen.unplanned,
            copied_bytes: seen.paged.copied_bytes,
            registered_bytes: seen.paged.registered_bytes,
            pinned_bytes: seen.paged.pinned_bytes,
        };
        Self {
            peak_bytes: device.ledger().peak_bytes(),
            cap_bytes: device.ledger().cap_bytes(),
            steps,
            steps_computed: steps,
            steps_replayed: 0,
            not_replayed: None,
            phases: seen.iter().map(phase).collect(),
        }
    }

    /// Seconds of one step, the first one's loading included.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "step counts are small")]
    pub fn seconds_per_step(&self) -> f64 {
        let is_loop = |report: &&PhaseReport| report.phase == Phase::Denoise;
        let seconds: f64 = self.phases.iter().filter(is_loop).map(|report| report.seconds).sum();
        seconds / self.steps.max(1) as f64
    }

    /// The most page-locked bytes of a phase: in the files, and elsewhere.
    #[must_use]
    pub fn locked_bytes(&self) -> [u64; 2] {
        let most = |bytes: fn(&PhaseReport) -> u64| self.phases.iter().map(bytes).max().unwrap_or(0);
        [most(|phase| phase.registered_bytes), most(|phase| phase.pinned_bytes)]
    }

    /// Seconds of all phases.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.phases.iter().map(|report| report.seconds).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = ["phase", "seconds", "activations", "copied"];
        let [phase, seconds, activations, copied] = columns;
        writeln!(f, "{phase:<12}{seconds:>10}{activations:>14}{copied:>14}")?;
        for PhaseReport { phase, seconds, activations_bytes, unplanned, copied_bytes, .. } in &self.phases {
            write!(f, "{phase:<12}{seconds:>10.3}{activations_bytes:>14}{copied_bytes:>14}")?;
            if *unplanned > 0 {
                write!(f, "  {unplanned} activations not as surveyed")?;
            }
            writeln!(f)?;
        }
        let (total, step) = (self.seconds(), self.seconds_per_step());
        write!(f, "{total:.3} s, {step:.4} s/step, peak {} of {} bytes", self.peak_bytes, self.cap_bytes)
    }
}
