//! Runs phases one after the other, each with its own weights, on one pool.
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use lighterage_allocator::{Config as PoolConfig, Need, Placement, Pool};
use lighterage_device::{Backend, Device, Purpose, Recorder, StreamKind, What};
use lighterage_ops::Queue;
use lighterage_pager::{Cycle, Pager, Plan, Statistics, UnitId, Units};

use crate::{Error, Forecast, Lent, Observer, PhaseForecast, Result};

/// Addresses that the pool of activations reserves: far more than any device holds, so that a free range is always found.
const ADDRESS_BYTES: u64 = 1 << 40;

/// A part of a run whose weights are on the device together; the weights of two phases never are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// CLIP and T5.
    Text,
    /// The projector: from a face to the tokens that stand for it.
    Identity,
    /// The control picture's latent.
    Control,
    /// The parts of the transformer that depend on timestep, guidance and text alone, for all steps at once.
    Modulation,
    /// The loop. With a face the steps on which InfuseNet does not work read fewer weights: another kind of turn of the same plan.
    Denoise,
    /// Latents to pixels.
    Vae,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Text => "text",
            Self::Identity => "identity",
            Self::Control => "control",
            Self::Modulation => "modulation",
            Self::Denoise => "denoise",
            Self::Vae => "vae",
        })
    }
}

/// What a phase was seen to need, in a dry pass or in a run.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) phase: Phase,
    pub(crate) units: Arc<Units>,
    /// The kinds of turns, with their numbers in a run; empty after a planned one.
    pub(crate) cycles: Vec<Cycle>,
    /// Which kind comes first.
    pub(crate) first_kind: usize,
    /// Where its activations go.
    pub(crate) placement: Arc<Placement>,
    /// The most physical bytes that the pool of activations held, and the weights that a phase keeps beside its plan.
    pub(crate) activations_bytes: u64,
    /// Of these the weights.
    beside_bytes: u64,
    /// Activations that the placement did not foresee.
    pub(crate) unplanned: u64,
    /// What its pager came to.
    pub(crate) paged: Statistics,
    pub(crate) seconds: f64,
}

impl Seen {
    /// Whether its turns are steps of the loop, and no weights are beside them, as where the loop decides in the middle of a step.
    pub(crate) fn is_of_the_loop(&self) -> bool {
        self.phase == Phase::Denoise && self.beside_bytes == 0
    }
}

/// Where weights come from: everything at once, to see what is needed, or by a plan.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weights<'a> {
    All,
    Planned(&'a Forecast),
}

/// One device, one stream, one pool, and what has been seen on them.
pub(crate) struct Stage<'a, B: Backend> {
    queue: Queue<B>,
    weights: Weights<'a>,
    observer: &'a mut dyn Observer,
    seen: Vec<Seen>,
    /// Of the next phase.
    turns: Turns,
}

/// The turns of a phase: how often each kind of them comes in a run, and which comes first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turns {
    pub(crate) counts: Vec<u64>,
    pub(crate) first_kind: usize,
}

impl<'a, B: Backend> Stage<'a, B> {
    pub(crate) fn new(
        device: &Device<B>,
        weights: Weights<'a>,
        observer: &'a mut dyn Observer,
    ) -> Result<Self> {
        let stream = device.stream(StreamKind::Compute)?;
        let config = PoolConfig { purpose: Purpose::Activations, reserve_bytes: ADDRESS_BYTES };
        let queue = Queue::new(Pool::new(&stream, config)?);
        Ok(Self { queue, weights, observer, seen: Vec::new(), turns: Turns::default() })
    }

    /// Whether this is a dry pass, where one turn of a loop says all about the others.
    pub(crate) const fn is_dry(&self) -> bool {
        matches!(self.weights, Weights::All)
    }

    /// Says how often each kind of turn of the next phase comes; a dry pass goes through each once. Without it a phase is one turn.
    pub(crate) fn repeats(&mut self, turns: Turns) {
        self.turns = turns;
    }

    /// Runs one phase: free pages of the phase before are given back first, then this phase's weights come, and afterwards they go. Nothing is done if
    /// the observer wants to stop.
    pub(crate) fn phase<T>(
        &mut self,
        phase: Phase,
        units: &Arc<Units>,
        body: impl FnOnce(&Queue<B>, &Pager<B>, &mut dyn Observer) -> Result<T>,
    ) -> Result<T> {
        self.phase_beside(phase, units, &[], |queue, lent, observer| body(queue, lent.cycle, observer))
    }

    /// The same with some units kept on the device beside the plan, on a pager of their own: those that are read when the others are not.
    pub(crate) fn phase_beside<T>(
        &mut self,
        phase: Phase,
        units: &Arc<Units>,
        beside: &[UnitId],
        body: impl FnOnce(&Queue<B>, &Lent<'_, B>, &mut dyn Observer) -> Result<T>,
    ) -> Result<T> {
        if self.observer.cancelled() {
            return Err(Error::CancelledBefore { phase });
        }
        let start = Instant::now();
        let span = self.recorder().and_then(|recorder| recorder.begin(What::Phase, phase.to_string()));
        self.observer.phase(phase);
        let placement = self.begin(phase)?;
        let unplanned = self.queue.pool().statistics().unplanned;
        let edges = self.kept(units, beside)?;
        let cycle = Arc::new(self.pager(phase, units)?);
        // An activation that finds no room, because the budget was lowered or someone else has it, gets it from the weights.
        let weights = Arc::downgrade(&cycle);
        let give =
            move |need: Need| weights.upgrade().map_or(0, |pager| pager.shrink(need.bytes).unwrap_or(0));
        let _registration = self.queue.pool().on_pressure(0, give);
        let made = body(
            &self.queue,
            &Lent { cycle: &cycle, edges: edges.as_ref().unwrap_or(&cycle) },
            self.observer,
        )?;
        self.queue.stream().synchronize()?;
        if let Some(recorder) = self.recorder() {
            recorder.end(span);
        }
        let statistics = self.queue.pool().statistics();
        let Turns { counts, first_kind } = std::mem::take(&mut self.turns);
        let beside_bytes = edges.as_ref().map_or(0, |pager| pager.plan().bytes());
        self.seen.push(Seen {
            phase,
            units: Arc::clone(units),
            cycles: if self.is_dry() { cycles(&cycle, &counts) } else { Vec::new() },
            first_kind,
            placement,
            activations_bytes: statistics.reserved_peak_bytes + beside_bytes,
            beside_bytes,
            unplanned: statistics.unplanned - unplanned,
            paged: cycle.statistics(),
            seconds: start.elapsed().as_secs_f64(),
        });
        Ok(made)
    }

    fn recorder(&self) -> Option<&Recorder> {
        self.queue.stream().device().recorder()
    }

    pub(crate) fn into_seen(self) -> Vec<Seen> {
        self.seen
    }

    /// What a dry pass saw, and places for all that it asked the pool for.
    pub(crate) fn into_placed(self) -> Vec<Seen> {
        let page_bytes = self.queue.device().info().page_bytes;
        let placements = self.queue.pool().recorded().place(page_bytes);
        let placed = |(seen, placement): (Seen, Arc<Placement>)| Seen {
            activations_bytes: placement.bytes() + seen.beside_bytes,
            placement,
            ..seen
        };
        self.seen.into_iter().zip(placements).map(placed).collect()
    }

    /// Gives back what the phase before left free. Then a dry pass records what is asked for, and a run follows where it was placed.
    fn begin(&self, phase: Phase) -> Result<Arc<Placement>> {
        let pool = self.queue.pool();
        pool.trim()?;
        pool.reset_peaks();
        match self.weights {
            Weights::All => {
                pool.record();
                Ok(Arc::default())
            }
            Weights::Planned(forecast) => {
                let placement = &self.planned(forecast, phase)?.placement;
                pool.follow(placement);
                Ok(Arc::clone(placement))
            }
        }
    }

    /// A survey sees every phase that a run has, in the same order: they are the same code.
    fn planned<'f>(&self, forecast: &'f Forecast, phase: Phase) -> Result<&'f PhaseForecast> {
        let planned = forecast.phases.get(self.seen.len()).filter(|planned| planned.phase == phase);
        planned.ok_or(Error::Unplanned { phase })
    }

    fn kept(&self, units: &Arc<Units>, beside: &[UnitId]) -> Result<Option<Pager<B>>> {
        if beside.is_empty() {
            return Ok(None);
        }
        let stream = self.queue.stream();
        let plan = Plan::resident(units, beside, stream.device().info().page_bytes);
        Ok(Some(Pager::new(stream, Arc::clone(units), beside, &plan)?))
    }

    fn pager(&self, phase: Phase, units: &Arc<Units>) -> Result<Pager<B>> {
        let (stream, units) = (self.queue.stream(), Arc::clone(units));
        Ok(match self.weights {
            Weights::All => Pager::resident(stream, units)?,
            Weights::Planned(forecast) => {
                let planned = self.planned(forecast, phase)?;
                let pager = Pager::planned(stream, units, &planned.plan)?;
                if planned.is_replayed && stream.device().backend().can_replay() {
                    pager.replayable()?
                } else {
                    pager
                }
            }
        })
    }
}

/// The turns that a dry pass went through, the longest kind first, as often as they come in a run.
fn cycles<B: Backend>(pager: &Pager<B>, turns: &[u64]) -> Vec<Cycle> {
    let turned = |(kind, cycle): (usize, Cycle)| Cycle {
        turns: turns.get(kind).copied().unwrap_or(cycle.turns),
        ..cycle
    };
    pager.cycles().into_iter().map(turned).collect()
}
