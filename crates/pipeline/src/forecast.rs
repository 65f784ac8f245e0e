use std::fmt;
use std::sync::Arc;

use lighterage_allocator::Placement;
use lighterage_device::{Backend, CallCost, Device, Ledger, MemoryCosts, ProductCall, Rates, Sim, SimConfig};
use lighterage_pager::{Goal, HostRates, Link, Plan, Planner, Source, Turn, UnitId, Units};

use crate::stage::{Seen, Stage, Weights};
use crate::{Phase, Result};

/// What every phase needs at any budget: the outcome of a dry pass, the run's own code on `Sim`.
#[derive(Clone, Debug)]
pub struct Survey {
    phases: Vec<Surveyed>,
    rates: Option<Rates>,
    /// What of a budget is not for this program's phases.
    taken_bytes: u64,
    /// Whether steps of the loop are replayed.
    is_replayed: bool,
    products: Vec<ProductCall>,
}

/// A phase as it was seen, and plans of it.
#[derive(Clone, Debug)]
struct Surveyed {
    seen: Seen,
    planner: Planner,
}

impl Survey {
    /// Runs `walk` where memory has no bytes and no bound, with pages of the size of the device that it is meant for, and its rates.
    pub(crate) fn take<T>(
        page_bytes: u64,
        rates: Option<Rates>,
        walk: impl FnOnce(&mut Stage<'_, Sim>) -> Result<T>,
    ) -> Result<Self> {
        let device = Device::new(
            Sim::new(SimConfig { page_bytes, rates, ..SimConfig::default() })?,
            Ledger::new(u64::MAX),
            Ledger::new(u64::MAX),
        );
        let mut nobody = ();
        let mut stage = Stage::new(&device, Weights::All, &mut nobody)?;
        walk(&mut stage)?;
        let surveyed = |seen: Seen| {
            let goal = Goal::new(seen.cycles.clone(), 0, page_bytes);
            let host = rates.as_ref().map_or(HostRates::FREE, host);
            let goal = Goal { link: link(rates), host, first_kind: seen.first_kind, ..goal };
            Surveyed { planner: Planner::new(&seen.units, goal), seen }
        };
        let phases = stage.into_placed().into_iter().map(surveyed).collect();
        let products = device.backend().products();
        Ok(Self { phases, rates, taken_bytes: 0, is_replayed: false, products })
    }

    /// The survey for a device of whose budget so many bytes are gone before anything runs: what the driver takes for context, kernels and libraries
    /// ([`Backend::taken`]). Every budget and peak is then one of all bytes.
    #[must_use]
    pub fn beside(self, taken_bytes: u64) -> Self {
        Self { taken_bytes, ..self }
    }

    /// The survey for weights that are page-locked there while they are streamed. It changes no bit and no byte of the device's, only the host's.
    ///
    /// ```
    /// use lighterage_pager::Source;
    /// use lighterage_pipeline::{BuiltIn, BuiltInOptions};
    /// # fn main() -> lighterage_pipeline::Result<()> {
    /// let survey = BuiltIn::new(BuiltInOptions::default())?.survey(2 << 20, None)?;
    /// let peak = |survey: &lighterage_pipeline::Survey| Ok::<_, lighterage_pipeline::Error>(survey.within(8 << 30)?.peak_bytes());
    /// assert_eq!(peak(&survey)?, peak(&survey.clone().fed_from(Source::Registered))?);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn fed_from(self, source: Source) -> Self {
        let fed = |Surveyed { seen, planner }| Surveyed { seen, planner: planner.fed_from(source) };
        Self { phases: self.phases.into_iter().map(fed).collect(), ..self }
    }

    /// The survey for a run whose loop replays its steps as graphs, or does not: it changes no bit and no byte of the device's, and costs the host some kilobytes of page-locked
    /// memory, for [flags](lighterage_device::Flags).
    ///
    /// ```
    /// use lighterage_pipeline::{BuiltIn, BuiltInOptions};
    /// # fn main() -> lighterage_pipeline::Result<()> {
    /// let survey = BuiltIn::new(BuiltInOptions::default())?.survey(2 << 20, None)?;
    /// let (plain, replayed) = (survey.within(8 << 30)?, survey.clone().replayed(true).within(8 << 30)?);
    /// assert_eq!(plain.peak_bytes(), replayed.peak_bytes());
    /// assert!((1..8000).contains(&(replayed.pinned_bytes() - plain.pinned_bytes())));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn replayed(self, is_replayed: bool) -> Self {
        Self { is_replayed, ..self }
    }

    /// Plans every phase within what the device's ledger allows in all; nothing may run on it yet.
    ///
    /// # Errors
    /// As [`within`](Survey::within).
    pub fn on<B: Backend>(self, device: &Device<B>) -> Result<(Self, Forecast)> {
        let survey = self.beside(device.ledger().granted_bytes());
        let forecast = survey.within(device.ledger().limit_bytes())?;
        Ok((survey, forecast))
    }

    /// The products of a run, each once: what a table may say of who makes them.
    #[must_use]
    pub fn products(&self) -> &[ProductCall] {
        &self.products
    }

    /// The rates that its times are made of.
    #[must_use]
    pub const fn rates(&self) -> Option<Rates> {
        self.rates
    }

    /// What a turn of that phase reads, in order; more than one phase of a kind are one behind the other.
    ///
    /// ```
    /// use lighterage_pipeline::{BuiltIn, BuiltInOptions, Phase};
    /// # fn main() -> lighterage_pipeline::Result<()> {
    /// let survey = BuiltIn::new(BuiltInOptions::default())?.survey(2 << 20, None)?;
    /// let bytes: u64 = survey.loads(Phase::Denoise).iter().map(|load| load.bytes).sum();
    /// assert!((17_100_000_000..17_300_000_000).contains(&bytes), "{bytes} of 23.8 GB: the rest is modulation");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn loads(&self, phase: Phase) -> Vec<Load> {
        let of_phase = self.phases.iter().map(|surveyed| &surveyed.seen).filter(|seen| seen.phase == phase);
        let loads = of_phase.flat_map(|seen| {
            let visits = seen.cycles.first().map_or(&[][..], |cycle| &cycle.visits);
            visits.iter().map(|visit| Load {
                name: seen.units.get(visit.unit).name.clone(),
                bytes: seen.units.bytes(visit.unit),
                seconds: visit.seconds(),
            })
        });
        loads.collect()
    }

    /// The smallest budget in bytes that will do.
    #[must_use]
    pub fn minimum_bytes(&self) -> u64 {
        self.needs().map(|need| need.bytes()).max().unwrap_or(self.taken_bytes)
    }

    /// The budget in bytes from which on nothing is streamed.
    #[must_use]
    pub fn maximum_bytes(&self) -> u64 {
        let whole = |Surveyed { seen, planner }: &Surveyed| seen.activations_bytes + planner.maximum_bytes();
        self.taken_bytes + self.phases.iter().map(whole).max().unwrap_or(0)
    }

    /// Plans every phase within `budget_bytes`.
    ///
    /// # Errors
    /// [`Error::Shortage`](crate::Error::Shortage) with the phase that lacks most, its largest reason, and the smallest budget that would do.
    pub fn within(&self, budget_bytes: u64) -> Result<Forecast> {
        if let Some(need) = self.needs().max_by_key(Need::bytes).filter(|need| need.bytes() > budget_bytes) {
            return Err(Shortage { budget_bytes, need }.into());
        }
        let phases = self.phases.iter().map(|phase| self.plan(phase, budget_bytes)).collect::<Result<_>>()?;
        let (minimum_bytes, taken_bytes) = (self.minimum_bytes(), self.taken_bytes);
        Ok(Forecast { budget_bytes, minimum_bytes, taken_bytes, is_timed: self.rates.is_some(), phases })
    }

    /// A step of the loop within `budget_bytes`, in the steady state, without a plan of the other phases; none where the loop does not fit.
    ///
    /// ```
    /// use lighterage_device::Profile;
    /// use lighterage_pipeline::{BuiltIn, BuiltInOptions};
    /// # fn main() -> lighterage_pipeline::Result<()> {
    /// let rates = Profile::named("rtx4090").map(|profile| profile.rates);
    /// let survey = BuiltIn::new(BuiltInOptions::default())?.survey(2 << 20, rates)?;
    /// let turn = survey.turn_within(8 << 30).expect("a step fits into 8 GiB");
    /// assert_eq!(Some(&turn), survey.within(8 << 30)?.denoise().and_then(|plan| plan.turns().first()));
    /// assert!(survey.turn_within(1 << 20).is_none());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn turn_within(&self, budget_bytes: u64) -> Option<Turn> {
        let Surveyed { seen, planner } =
            self.phases.iter().find(|surveyed| surveyed.seen.phase == Phase::Denoise)?;
        let weights_bytes = budget_bytes.checked_sub(self.taken_bytes + seen.activations_bytes)?;
        planner.within(weights_bytes).ok()?.turns().first().copied()
    }

    fn plan(&self, Surveyed { seen, planner }: &Surveyed, budget_bytes: u64) -> Result<PhaseForecast> {
        let plan = planner.within(budget_bytes - self.taken_bytes - seen.activations_bytes)?;
        let [on_host, on_card] = [false, true].map(|is_card| plan.host_bytes(&seen.units, is_card));
        let is_replayed = self.is_replayed && seen.is_of_the_loop();
        let flag_bytes = if is_replayed { plan.flag_bytes() } else { 0 };
        let costs = self.rates.map_or(MemoryCosts::FREE, |rates| rates.memory_calls);
        Ok(PhaseForecast {
            phase: seen.phase,
            units: Arc::clone(&seen.units),
            placement: Arc::clone(&seen.placement),
            activations_bytes: seen.activations_bytes,
            host_bytes: on_host.pinned + flag_bytes,
            pinned_bytes: on_card.pinned + flag_bytes,
            least_bytes: [on_host.least + flag_bytes, on_card.least + flag_bytes],
            is_replayed,
            activation_seconds: activation_seconds(costs, seen.activations_bytes, plan.page_bytes()),
            plan,
        })
    }

    fn needs(&self) -> impl Iterator<Item = Need> + '_ {
        self.phases.iter().map(|Surveyed { seen, planner }| Need {
            phase: seen.phase,
            taken_bytes: self.taken_bytes,
            activations_bytes: seen.activations_bytes,
            weights_bytes: planner.minimum_bytes(),
            largest_unit: planner.largest_unit().to_owned(),
        })
    }
}

/// What a host does before copies can begin, by the rates of a device.
pub(crate) const fn host(rates: &Rates) -> HostRates {
    HostRates {
        lock_bytes_per_second: rates.lock_bytes,
        read_bytes_per_second: rates.read_bytes,
        memory_calls: rates.memory_calls,
    }
}

/// Seconds in which the host maps a phase's activations and in which it unmaps them. The pool maps page by page, each with a chunk of its own. It does so while it is asked for
/// activations, before the launches that use them.
pub(crate) fn activation_seconds(costs: MemoryCosts, bytes: u64, page_bytes: u64) -> [f64; 2] {
    let page = |cost: CallCost| cost.seconds(1, 1, 0);
    let each = [
        page(costs.create) + page(costs.map) + page(costs.set_access),
        page(costs.unmap) + page(costs.destroy),
    ];
    #[expect(clippy::cast_precision_loss, reason = "pages of a card are few")]
    each.map(|seconds| bytes.div_ceil(page_bytes) as f64 * seconds)
}

fn link(rates: Option<Rates>) -> Link {
    rates.map_or(Link::UNIT, |rates| Link {
        bytes_per_second: rates.link_bytes,
        copy_seconds: rates.copy_seconds,
        slowdown: rates.slowdown,
    })
}

/// A unit of weights as one turn of a phase reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// Of the unit.
    pub name: String,
    /// On the device, alignment included.
    pub bytes: u64,
    /// From its lease to the next, if nothing had to be waited for; 0 without rates.
    pub seconds: f64,
}

/// The least that a phase runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Which phase.
    pub phase: Phase,
    /// What the driver takes of the budget before anything runs.
    pub taken_bytes: u64,
    /// Physical bytes of its activations at their peak.
    pub activations_bytes: u64,
    /// Bytes that its weights need at least: the largest unit, in whole pages.
    pub weights_bytes: u64,
    /// The name of that unit.
    pub largest_unit: String,
}

impl Need {
    /// All together.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.taken_bytes + self.activations_bytes + self.weights_bytes
    }
}

/// The budget is below what some phase needs: the phase that needs most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The budget.
    pub budget_bytes: u64,
    /// What that phase needs, and so the smallest budget that would do.
    pub need: Need,
}

impl Shortage {
    /// How much more it would take.
    #[must_use]
    pub const fn missing_bytes(&self) -> u64 {
        self.need.bytes().saturating_sub(self.budget_bytes)
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Need { phase, taken_bytes, activations_bytes, weights_bytes, largest_unit } = &self.need;
        let (budget, smallest, missing) = (self.budget_bytes, self.need.bytes(), self.missing_bytes());
        let bytes = |count: u64| if count == 1 { "1 byte".to_owned() } else { format!("{count} bytes") };
        let (budget, missing) = (bytes(budget), bytes(missing));
        write!(
            f,
            "a budget of {budget} is {missing} too small: the {phase} phase needs {smallest} bytes, the smallest budget that \
             would do, "
        )?;
        if *taken_bytes > 0 {
            write!(f, "{taken_bytes} for the driver and its kernels, ")?;
        }
        write!(
            f,
            "{activations_bytes} for activations and {weights_bytes} for weights; the largest reason is "
        )?;
        if taken_bytes > activations_bytes.max(weights_bytes) {
            f.write_str("what the driver takes for itself")
        } else if activations_bytes >= weights_bytes {
            f.write_str("the activations")
        } else {
            write!(f, "unit {largest_unit}")
        }
    }
}

/// What a run will do within its budget, phase by phase.
///
/// It prints as a table, one line a phase, in bytes.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// The budget that it was made for.
    pub budget_bytes: u64,
    /// The smallest budget that would do.
    pub minimum_bytes: u64,
    /// Whether the survey had rates, so that the plans' times are seconds.
    pub is_timed: bool,
    /// What the driver takes of both before anything runs.
    pub taken_bytes: u64,
    /// In the order in which they run.
    pub phases: Vec<PhaseForecast>,
}

/// What one phase will do.
#[derive(Clone, Debug)]
pub struct PhaseForecast {
    /// Which.
    pub phase: Phase,
    /// The weights that its plan speaks of.
    pub units: Arc<Units>,
    /// Where each of its activations goes.
    pub placement: Arc<Placement>,
    /// Physical bytes of activations at their peak; with `TeaCache` also of the weights that a skipped step reads.
    pub activations_bytes: u64,
    /// Pinned bytes of the host where page-locking gains nothing (`Host`): its converted weights, of a checkpoint whose element type is that of the run few.
    pub host_bytes: u64,
    /// What is resident and what is streamed.
    pub plan: Plan,
    /// Host bytes that are page-locked on a card: streamed weights, exactly, and a stage or two.
    pub pinned_bytes: u64,
    /// Whether its steps are replayed as graphs; the flags that this takes are among the host's bytes.
    pub is_replayed: bool,
    /// The fewest bytes that either can be: on `Host`, and on a card.
    pub(crate) least_bytes: [u64; 2],
    /// Seconds in which the host maps the pages of its activations, and in which it unmaps them before the next phase; 0 without rates.
    pub(crate) activation_seconds: [f64; 2],
}

impl PhaseForecast {
    /// The most bytes that the phase holds.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.activations_bytes + self.plan.bytes()
    }

    /// The units in the order in which every turn of the phase leases them.
    #[must_use]
    pub fn cycle(&self) -> &[UnitId] {
        self.plan.cycle()
    }

    /// Host bytes of weights that are not page-locked on a card: they are read once.
    #[must_use]
    pub fn pageable_bytes(&self) -> u64 {
        self.plan.unit_bytes().saturating_sub(self.pinned_bytes)
    }

    /// Seconds that it should take, loading of its weights included and what it takes to map its memory and to give it back; means something only if the survey had rates.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.plan.seconds() + self.activation_seconds.iter().sum::<f64>()
    }

    /// Seconds from its beginning to the end of its first turn; means something only if the survey had rates.
    #[must_use]
    pub fn first_turn_seconds(&self) -> f64 {
        self.activation_seconds[0] + self.plan.first_turn_seconds()
    }
}

impl Forecast {
    /// The loop's plan.
    #[must_use]
    pub fn denoise(&self) -> Option<&Plan> {
        self.of_loop().map(|planned| &planned.plan)
    }

    fn of_loop(&self) -> Option<&PhaseForecast> {
        self.phases.iter().find(|planned| planned.phase == Phase::Denoise)
    }

    /// The most page-locked host bytes of a phase, on a card.
    #[must_use]
    pub fn pinned_bytes(&self) -> u64 {
        self.phases.iter().map(|planned| planned.pinned_bytes).max().unwrap_or(0)
    }

    /// The most host bytes of a phase that are read once.
    #[must_use]
    pub fn pageable_bytes(&self) -> u64 {
        self.phases.iter().map(PhaseForecast::pageable_bytes).max().unwrap_or(0)
    }

    /// Seconds from the beginning of the run to the end of the loop's first step: the phases before it, what the host page-locks and fills, and what crosses the link.
    /// They mean something only if the survey had rates.
    ///
    /// ```
    /// use lighterage_device::Profile;
    /// use lighterage_pipeline::{BuiltIn, BuiltInOptions};
    /// # fn main() -> lighterage_pipeline::Result<()> {
    /// let rates = Profile::named("h100").map(|profile| profile.rates);
    /// let survey = BuiltIn::new(BuiltInOptions::default())?.survey(2 << 20, rates)?;
    /// let seconds = |budget| Ok::<_, lighterage_pipeline::Error>(survey.within(budget)?.first_step_seconds());
    /// assert!(seconds(4 << 30)? > 2.0 * seconds(24 << 30)?, "what is streamed is page-locked first");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn first_step_seconds(&self) -> f64 {
        let before = self.phases.iter().take_while(|planned| planned.phase != Phase::Denoise);
        let before: f64 = before.map(PhaseForecast::seconds).sum();
        before + self.of_loop().map_or(0.0, PhaseForecast::first_turn_seconds)
    }

    /// Seconds of all phases.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.phases.iter().map(PhaseForecast::seconds).sum()
    }

    /// The most bytes that the run will hold.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.taken_bytes + self.phases.iter().map(PhaseForecast::peak_bytes).max().unwrap_or(0)
    }

    /// The most pinned bytes of the host that the run will hold on `Host`.
    #[must_use]
    pub fn host_bytes(&self) -> u64 {
        self.phases.iter().map(|planned| planned.host_bytes).max().unwrap_or(0)
    }

    /// Whether the host's budget will do on this device, be it for small stages that all goes through: known before any work is done. A run checks it by itself.
    ///
    /// # Errors
    /// [`Error::HostShortage`](crate::Error::HostShortage) with the phase that needs most.
    pub fn check_host<B: Backend>(&self, device: &Device<B>) -> Result<()> {
        let free_bytes = device.host_ledger().free_bytes();
        let is_card = device.backend().prefers_pinned();
        let need = |planned: &PhaseForecast| (planned.least_bytes[usize::from(is_card)], planned.phase);
        match self.phases.iter().map(need).max_by_key(|(bytes, _)| *bytes) {
            Some((needed_bytes, phase)) if needed_bytes > free_bytes => {
                Err(crate::Error::HostShortage { phase, needed_bytes, free_bytes })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = ["phase", "activations", "resident", "ring", "streamed/cycle", "peak", "host"];
        let [phase, activations, resident, ring, streamed, peak, host] = columns;
        writeln!(
            f,
            "{phase:<12}{activations:>14}{resident:>14}{ring:>14}{streamed:>16}{peak:>14}{host:>14}"
        )?;
        for planned in &self.phases {
            let PhaseForecast { phase, activations_bytes, host_bytes, plan, .. } = planned;
            let (resident, ring, streamed) =
                (plan.resident_bytes(), plan.ring_bytes(), plan.streamed_bytes());
            let peak = planned.peak_bytes();
            writeln!(
                f,
                "{phase:<12}{activations_bytes:>14}{resident:>14}{ring:>14}{streamed:>16}{peak:>14}{host_bytes:>14}"
            )?;
            // Steps without InfuseNet, beside those with it.
            for turn in plan.turns().iter().skip(1) {
                writeln!(f, "{:<12}{:>58}", "  bare", turn.streamed_bytes)?;
            }
        }
        if self.taken_bytes > 0 {
            writeln!(f, "{:<12}{:>72}", "driver", self.taken_bytes)?;
        }
        write!(
            f,
            "peak {} of {} bytes, smallest budget {} bytes",
            self.peak_bytes(),
            self.budget_bytes,
            self.minimum_bytes
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(taken_bytes: u64, activations_bytes: u64, weights_bytes: u64) -> String {
        let largest_unit = "blocks.0.ff".to_owned();
        let need =
            Need { phase: Phase::Denoise, taken_bytes, activations_bytes, weights_bytes, largest_unit };
        Shortage { budget_bytes: 1000, need }.to_string()
    }

    fn check(activations_bytes: u64, weights_bytes: u64, reason: &str) {
        let text = text(0, activations_bytes, weights_bytes);
        let expected = format!(
            "a budget of 1000 bytes is 2000 bytes too small: the denoise phase needs 3000 bytes, the smallest budget that would do, \
             {activations_bytes} for activations and {weights_bytes} for weights; the largest reason is {reason}"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn shortage_names_the_larger_half() {
        check(2000, 1000, "the activations");
        check(500, 2500, "unit blocks.0.ff");
    }

    #[test]
    fn shortage_counts_what_the_driver_takes() {
        let text = text(5000, 2000, 1000);
        for words in [
            "is 7000 bytes too small: the denoise phase needs 8000 bytes, the smallest",
            "do, 5000 for the driver and its kernels, 2000 for activations and 1000 for weights",
            "reason is what the driver takes for itself",
        ] {
            assert!(text.contains(words), "{text}");
        }
    }
}
