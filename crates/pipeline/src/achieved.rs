use lighterage_device::{Detail, MemoryCosts, Rates, Recording, Span, StreamId, What};
use lighterage_pager::{Cycle, Link, Plan, Turn, Visit};

use crate::forecast::activation_seconds;
use crate::{Forecast, Phase, PhaseForecast};

/// What a run came to, as a recording of it says: to be held against its forecast.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Achieved {
    /// Of each step of the loop, in order.
    pub steps: Vec<AchievedStep>,
    /// From the beginning of the recording to the end of the first step, in seconds.
    pub first_step_after_seconds: f64,
    /// From the beginning of the loop's phase to the end of the first step: with all that is mapped, page-locked and filled before its first launch can be queued. What
    /// [`Predicted::first_seconds`] predicts.
    pub first_seconds: f64,
    /// Bytes of weights that were moved to the device, in all phases.
    pub moved_bytes: u64,
}

/// One step, from the end of the one before to its own end, on the stream that computes it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AchievedStep {
    /// When it began on the recording's clock, in nanoseconds.
    pub begin_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// Seconds that it stood still, waiting for weights; none where its waits were not recorded.
    pub stalled_seconds: Option<f64>,
    /// Bytes of weights whose copies ended in it, as far as they were recorded.
    pub moved_bytes: u64,
}

impl AchievedStep {
    /// How long it took.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "times of a run are far below 2^52 ns")]
    pub const fn seconds(&self) -> f64 {
        self.end_ns.saturating_sub(self.begin_ns) as f64 * 1e-9
    }
}

/// What part of its time a loop stood still.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stalled {
    /// From 0 to 1.
    pub share: f64,
    /// The step that was looked at, counted from 1; none where it is the mean of all steady steps.
    pub step: Option<usize>,
}

/// What a step was to be like, and by what that is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Predicted {
    /// A step behind the first in the mean, each kind of step in its steady state.
    pub turn: Turn,
    /// The first step from the beginning of its phase, loading included, if that was predicted.
    pub first_seconds: Option<f64>,
    /// From the beginning of the run to the end of the first step, if that was predicted: from a profile all of it, else, on a card, the phases before the loop by their loading alone.
    pub first_step_after_seconds: Option<f64>,
    /// Where the times of launches and copies come from.
    pub source: Source,
}

/// Where the times of a prediction come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A profile of the device: known before the run.
    Profile,
    /// The launches and copies of this step of the run itself, counted from 1; what is predicted is how they overlap.
    Step(usize),
    /// The same of a step of each kind, where there are several: with `InfuseNet` and without.
    StepOfEachKind,
}

impl Achieved {
    /// Reads it off a recording.
    #[must_use]
    pub fn of(recording: &Recording) -> Self {
        let spans = |what| recording.spans.iter().filter(move |span| span.what == what);
        let stream = spans(What::Step).next().and_then(|step| step.stream);
        let mut begin_ns = spans(What::Step).next().map_or(0, |step| step.begin_ns);
        // A step that was not looked at closely shows no lease.
        let is_seen = |begin_ns, end_ns| {
            let is_in = |lease: &Span| lease.stream == stream && (begin_ns..end_ns).contains(&lease.begin_ns);
            recording.detail == Detail::Everything || spans(What::Lease).any(is_in)
        };
        let mut steps = Vec::new();
        for step in spans(What::Step) {
            let end_ns = step.end_ns;
            let stalled_ns: u64 = spans(What::Wait)
                .filter(|wait| wait.stream == stream)
                .map(|wait| wait.within(begin_ns, end_ns))
                .sum();
            let arrived = spans(What::Arrival).filter(|copy| (begin_ns..end_ns).contains(&copy.end_ns));
            steps.push(AchievedStep {
                begin_ns,
                end_ns,
                stalled_seconds: is_seen(begin_ns, end_ns).then_some(seconds(stalled_ns)),
                moved_bytes: arrived.map(|copy| copy.bytes).sum(),
            });
            begin_ns = end_ns;
        }
        let first_end = steps.first().map_or(recording.begin_ns, |step| step.end_ns);
        // The phase that the first step lies in.
        let phases = spans(What::Phase).map(|phase| phase.begin_ns);
        let loop_begin = phases.filter(|begin_ns| *begin_ns <= first_end).max().unwrap_or(recording.begin_ns);
        Self {
            steps,
            first_step_after_seconds: seconds(first_end.saturating_sub(recording.begin_ns)),
            first_seconds: seconds(first_end.saturating_sub(loop_begin)),
            moved_bytes: recording.counts.arrived_bytes,
        }
    }

    /// The steps behind the first, which loads: the first itself where there is no other.
    #[must_use]
    pub fn steady(&self) -> &[AchievedStep] {
        if self.steps.len() > 1 { &self.steps[1..] } else { &self.steps }
    }

    /// Mean seconds of a steady step.
    #[must_use]
    pub fn seconds_per_step(&self) -> f64 {
        mean(self.steady().iter().map(AchievedStep::seconds))
    }

    /// The middle one of the seconds of the steady steps; none without a step.
    ///
    /// ```
    /// use lighterage_pipeline::{Achieved, AchievedStep};
    /// let ends = [5, 6, 8, 9_u64].map(|seconds| seconds * 1_000_000_000);
    /// let begins = [0, ends[0], ends[1], ends[2]];
    /// let step = |(begin_ns, end_ns)| AchievedStep { begin_ns, end_ns, ..AchievedStep::default() };
    /// let achieved = Achieved { steps: begins.into_iter().zip(ends).map(step).collect(), ..Achieved::default() };
    /// assert_eq!(achieved.median_seconds(), Some(1.0), "the first step, which loads, does not count");
    /// assert_eq!(Achieved::default().median_seconds(), None);
    /// ```
    #[must_use]
    pub fn median_seconds(&self) -> Option<f64> {
        let mut seconds: Vec<f64> = self.steady().iter().map(AchievedStep::seconds).collect();
        seconds.sort_by(f64::total_cmp);
        seconds.get(seconds.len() / 2).copied()
    }

    /// What part of its time the loop stood still, waiting for weights: of all steady steps where their waits were recorded, else of the one that was looked at
    /// closely; none where none was.
    #[must_use]
    pub fn stalled(&self) -> Option<Stalled> {
        let share = |stalled: f64, seconds: f64| stalled / seconds.max(f64::MIN_POSITIVE);
        if let Some(stalled) = self.stalled_seconds_per_step() {
            return Some(Stalled { share: share(stalled, self.seconds_per_step()), step: None });
        }
        let seen = |(index, step): (usize, &AchievedStep)| {
            Some(Stalled { share: share(step.stalled_seconds?, step.seconds()), step: Some(index + 1) })
        };
        // Better of one behind the first, which loads.
        let steps = || self.steps.iter().enumerate();
        steps().skip(1).chain(steps().take(1)).find_map(seen)
    }

    /// Mean seconds that a steady step stood still; none unless it is known of each.
    #[must_use]
    pub fn stalled_seconds_per_step(&self) -> Option<f64> {
        let stalled = self.steady().iter().map(|step| step.stalled_seconds);
        Some(mean(stalled.collect::<Option<Vec<f64>>>()?.into_iter()))
    }

    /// Mean bytes that came in a steady step.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "bytes of a step are far below 2^52")]
    pub fn moved_bytes_per_step(&self) -> f64 {
        mean(self.steady().iter().map(|step| step.moved_bytes as f64))
    }
}

impl Predicted {
    /// From the forecast's own times; where it has none, from the launches and copies of the second step (the first where there is no other), put through the plan's
    /// recurrence; where the plan has several kinds of steps, from those of a step of each. Nothing where the recording has no such step, or steps differ from the plan's cycle (with
    /// `TeaCache`).
    ///
    /// What the host does before the first copies no later step shows: the rates of the `card` say it, if there are any.
    #[must_use]
    pub fn of(forecast: &Forecast, recording: &Recording, card: Option<&Rates>) -> Option<Self> {
        let planned = forecast.phases.iter().find(|planned| planned.phase == Phase::Denoise)?;
        if forecast.is_timed {
            let turn = planned.plan.mean_turn()?;
            let first_seconds = Some(planned.first_turn_seconds());
            let first_step_after_seconds = Some(forecast.first_step_seconds());
            return Some(Self { turn, first_seconds, first_step_after_seconds, source: Source::Profile });
        }
        let achieved = Achieved::of(recording);
        let index = usize::from(achieved.steps.len() > 1);
        let ((first_steps, later), kinds) = (achieved.steps.split_at(index), planned.plan.cycles().len());
        // Of one kind are all of them, or the plan knows nothing of them; of several the first step may be the only one.
        let of_each = later.iter().chain(first_steps);
        let candidates: Vec<_> = of_each.take(if kinds == 1 { 1 } else { usize::MAX }).collect();
        let (mut cycles, mut seen) = (planned.plan.cycles().to_vec(), None);
        for (kind, cycle) in cycles.iter_mut().enumerate().filter(|(_, cycle)| cycle.turns > 0) {
            let of_kind = |step: &&AchievedStep| {
                let measured = measured(planned, recording, step, kind)?;
                Some((measured, link(recording, step)))
            };
            let (measured, link) = candidates.iter().find_map(of_kind)?;
            *cycle = measured;
            seen = seen.or(link);
        }
        let plan = planned.plan.retimed(cycles, seen.unwrap_or(INSTANT));
        let turn = plan.mean_turn()?;
        let carried =
            seen.or_else(|| card.map(|rates| Link { bytes_per_second: rates.link_bytes, ..INSTANT }));
        let first = carried.map(|link| first(forecast, &plan, link, card));
        Some(Self {
            turn,
            first_seconds: first.map(|[step, _]| step),
            // Elsewhere than on a card, where launches take longest, loading says little of the phases before.
            first_step_after_seconds: first.filter(|_| card.is_some()).map(|[_, after]| after),
            source: if kinds == 1 { Source::Step(index + 1) } else { Source::StepOfEachKind },
        })
    }
}

/// Seconds of the first step, and from the beginning of the run to its end: `plan` has the times of a step's launches; the phases before it are taken to take what their
/// loading takes. On a card both have what it takes to map weights and activations, and to unmap those of the phases before.
fn first(forecast: &Forecast, plan: &Plan, link: Link, card: Option<&Rates>) -> [f64; 2] {
    let fed = |plan: Plan| match card {
        Some(rates) => plan.fed_at(crate::forecast::host(rates)),
        None => plan,
    };
    let activations = |planned: &PhaseForecast| {
        let costs = card.map_or(MemoryCosts::FREE, |rates| rates.memory_calls);
        activation_seconds(costs, planned.activations_bytes, planned.plan.page_bytes())
    };
    let loading = |planned: &PhaseForecast| {
        let plan = fed(planned.plan.retimed(vec![Cycle::untimed(planned.cycle())], link));
        plan.seconds() + activations(planned).iter().sum::<f64>()
    };
    let of_loop = forecast.phases.iter().find(|planned| planned.phase == Phase::Denoise);
    let mapped = of_loop.map_or(0.0, |planned| activations(planned)[0]);
    let step = mapped + fed(plan.retimed(plan.cycles().to_vec(), link)).first_turn_seconds();
    let before = forecast.phases.iter().take_while(|planned| planned.phase != Phase::Denoise);
    [step, step + before.map(loading).sum::<f64>()]
}

/// A link that carries anything in no time.
const INSTANT: Link = Link { bytes_per_second: f64::MAX, ..Link::UNIT };

/// The plan's cycle of that kind with the times of one step: what of its leases, and between them, was no waiting.
fn measured(
    planned: &PhaseForecast,
    recording: &Recording,
    step: &AchievedStep,
    kind: usize,
) -> Option<Cycle> {
    let stream = recording.spans.iter().find(|span| span.what == What::Step)?.stream;
    let in_step =
        |span: &&Span| span.stream == stream && (step.begin_ns..step.end_ns).contains(&span.begin_ns);
    let leases: Vec<&Span> =
        recording.spans.iter().filter(|span| span.what == What::Lease).filter(in_step).collect();
    let named = |(lease, visit): (&&Span, &Visit)| lease.name == planned.units.get(visit.unit).name;
    let cycle = planned.plan.cycles().get(kind)?;
    if leases.len() != cycle.visits.len() || !leases.iter().zip(&cycle.visits).all(named) {
        return None;
    }
    let waits = Waits::of(recording, stream);
    // What a step launches before its first lease, the step before launched behind its last one.
    let before = leases.first().map_or(0.0, |first| waits.busy(step.begin_ns, first.begin_ns));
    let visits = cycle.visits.iter().enumerate().map(|(index, visit)| {
        let lease = leases[index];
        let next = leases.get(index + 1).map(|next| next.begin_ns);
        let until = next.unwrap_or(step.end_ns);
        let held_until = lease.end_ns.min(until);
        let rest = waits.busy(held_until, until);
        Visit {
            unit: visit.unit,
            held_seconds: waits.busy(lease.begin_ns, held_until),
            then_seconds: if next.is_none() { rest + before } else { rest },
        }
    });
    Some(Cycle { visits: visits.collect(), turns: cycle.turns })
}

/// The link as the copies of a step saw it; none where there were none.
fn link(recording: &Recording, step: &AchievedStep) -> Option<Link> {
    let arrived = recording
        .spans
        .iter()
        .filter(|span| span.what == What::Arrival && (step.begin_ns..step.end_ns).contains(&span.end_ns));
    let (bytes, time) =
        arrived.fold((0, 0.0), |(bytes, time), copy| (bytes + copy.bytes, time + copy.seconds()));
    if bytes == 0 || time <= 0.0 {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "bytes of a step are far below 2^52")]
    let bytes_per_second = bytes as f64 / time;
    // The launches' times were taken beside copies: their slowdown is in them.
    Some(Link { bytes_per_second, copy_seconds: 0.0, slowdown: 0.0 })
}

/// When a stream stood still, in order.
struct Waits<'r>(Vec<&'r Span>);

impl<'r> Waits<'r> {
    fn of(recording: &'r Recording, stream: Option<StreamId>) -> Self {
        let waits = recording.spans.iter().filter(|span| span.what == What::Wait && span.stream == stream);
        Self(waits.collect())
    }

    /// Seconds of a window without those that were waits.
    fn busy(&self, begin_ns: u64, end_ns: u64) -> f64 {
        let first = self.0.partition_point(|wait| wait.end_ns <= begin_ns);
        let waits = self.0[first..].iter().take_while(|wait| wait.begin_ns < end_ns);
        let waited: u64 = waits.map(|wait| wait.within(begin_ns, end_ns)).sum();
        seconds(end_ns.saturating_sub(begin_ns).saturating_sub(waited))
    }
}

#[expect(clippy::cast_precision_loss, reason = "times of a run are far below 2^52 ns")]
const fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 * 1e-9
}

#[expect(clippy::cast_precision_loss, reason = "step counts are small")]
fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}
