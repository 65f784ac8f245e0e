mod beside;
mod bound;
mod filling;
mod goal;
mod mapping;
mod planner;
mod resize;
mod retimed;
mod script;
mod search;
mod share;
mod tape;
#[cfg(test)]
pub(crate) mod tests;
mod timing;

use std::sync::Arc;

use self::filling::Filling;
pub use self::filling::HostRates;
pub use self::goal::{Cycle, Goal, Link, Source, Visit};
use self::mapping::Mapping;
pub use self::planner::Planner;
pub(crate) use self::script::{Home, Piece, Script};
use self::search::Choice;
pub(crate) use self::tape::Tape;
use self::timing::{Clock, steady};
use crate::Result;
use crate::feed::{FeedLayout, STAGE_BYTES_MAX};
use crate::units::{UnitId, Units};

/// What is resident and what is streamed through a ring of which size, and what that is expected to take: a pure function of units, cycles, link and budget.
///
/// Bytes of units count with their alignment, here and in [`Statistics`](crate::Statistics).
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    tape: Arc<Tape>,
    choice: Choice,
    cycles: Vec<Cycle>,
    link: Link,
    turns: Vec<Turn>,
    /// The units of the first cycle's visits.
    visited: Vec<UnitId>,
    /// Leases held at once.
    held: usize,
    source: Source,
    host: HostRates,
    first_kind: usize,
}

/// What one kind of turn is expected to be like, once it has come a few times.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Turn {
    /// Seconds of a turn.
    pub seconds: f64,
    /// No plan with as much memory takes less: see [`Plan::turns`].
    pub bound_seconds: f64,
    /// Seconds of its launches if they never wait.
    pub compute_seconds: f64,
    /// Seconds that its copies take the link.
    pub copy_seconds: f64,
    /// Seconds that launches wait for copies.
    pub stalled_seconds: f64,
    /// Bytes that cross the link.
    pub streamed_bytes: u64,
    /// How many such turns the run has.
    pub count: u64,
}

/// Page-locked bytes of the host that a pager wants, and what it can do with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostBytes {
    /// [`Plan::pinned_bytes`].
    pub pinned: u64,
    /// [`Plan::least_pinned_bytes`].
    pub least: u64,
}

/// What keeps a turn from being shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The launches: more memory would not help.
    Compute,
    /// The link: more memory would.
    Link,
}

impl Turn {
    /// What limits it.
    #[must_use]
    pub fn limit(&self) -> Limit {
        if self.bound_seconds > self.compute_seconds * 1.001 { Limit::Link } else { Limit::Compute }
    }
}

impl Plan {
    /// Every unit of the cycle resident.
    ///
    /// # Panics
    /// If the cycle names a unit that is not one of `units`, or `page_bytes` is not a multiple of [`ALIGNMENT_BYTES`](crate::ALIGNMENT_BYTES).
    #[must_use]
    pub fn resident(units: &Units, cycle: &[UnitId], page_bytes: u64) -> Self {
        let cycles = vec![Cycle::untimed(cycle)];
        let tape = Arc::new(Tape::new(units, cycle.iter().copied(), page_bytes, false));
        let choice = Choice {
            homes: vec![Home::Resident; tape.pages as usize].into(),
            ring_pages: 0,
            streamed: vec![0; tape.spans.len()],
        };
        Self::with_visits(tape, choice, &Goal::new(cycles, 0, page_bytes), vec![Turn::default()])
    }

    /// A plan without times, for turns that come again and again: copies are spread along the cycle by bytes.
    ///
    /// # Errors
    /// As [`Plan::new`].
    ///
    /// # Panics
    /// As [`Plan::resident`].
    pub fn within(units: &Units, cycle: &[UnitId], budget_bytes: u64, page_bytes: u64) -> Result<Self> {
        let cycles = vec![Cycle { turns: 2, ..Cycle::untimed(cycle) }];
        Self::new(units, &Goal::new(cycles, budget_bytes, page_bytes))
    }

    /// The plan with the shortest turns. Where no visit takes any time, each is taken to take a second for every byte of its unit, which is what
    /// [`Goal::new`]'s link takes.
    ///
    /// # Errors
    /// [`Error::Budget`](crate::Error::Budget) below [`Plan::minimum`], or where the goal wants more leases held at once than the budget has room for;
    /// [`Error::Turn`](crate::Error::Turn) if the run begins with a kind of turn that the goal has no cycle of.
    ///
    /// # Panics
    /// As [`Plan::resident`].
    pub fn new(units: &Units, goal: &Goal) -> Result<Self> {
        Planner::new(units, goal.clone()).within(goal.budget_bytes)
    }

    /// The smallest budget that [`Plan::new`] accepts where one lease is held at a time: the largest unit of the cycle, in whole pages.
    ///
    /// # Panics
    /// As [`Plan::resident`].
    #[must_use]
    pub fn minimum(units: &Units, cycle: &[UnitId], page_bytes: u64) -> u64 {
        let tape = Tape::new(units, cycle.iter().copied(), page_bytes, true);
        u64::from(tape.touched_max()) * page_bytes
    }

    /// Device bytes that the plan takes: resident pages and ring.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.resident_bytes() + self.ring_bytes()
    }

    /// Bytes of the resident pages.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let resident = self.choice.homes.iter().filter(|home| **home == Home::Resident).count() as u64;
        resident * self.tape.page_bytes
    }

    /// Bytes of the units, alignment included.
    #[must_use]
    pub fn unit_bytes(&self) -> u64 {
        self.tape.bytes
    }

    /// Bytes of the ring, in whole pages.
    #[must_use]
    pub fn ring_bytes(&self) -> u64 {
        u64::from(self.choice.ring_pages) * self.tape.page_bytes
    }

    /// Bytes that cross the link in each of the longest turns, in the steady state.
    #[must_use]
    pub fn streamed_bytes(&self) -> u64 {
        self.turns.first().map_or(0, |turn| turn.streamed_bytes)
    }

    /// The mean of all turns behind the run's first one, each kind as often as it comes; of a run of one turn that one. None where there are none. Its count is that of all turns.
    #[must_use]
    pub fn mean_turn(&self) -> Option<Turn> {
        let all: u64 = self.turns.iter().map(|turn| turn.count).sum();
        let behind = |(kind, turn): (usize, &Turn)| {
            let first = u64::from(all > 1 && kind == self.first_kind);
            (*turn, turn.count.saturating_sub(first))
        };
        let turns = self.turns.iter().enumerate().map(behind).filter(|(_, count)| *count > 0);
        let turns: Vec<(Turn, u64)> = turns.collect();
        let (first, _) = *turns.first()?;
        if turns.len() == 1 {
            return Some(Turn { count: all, ..first });
        }
        let count: u64 = turns.iter().map(|(_, count)| count).sum();
        let mean = |of: fn(&Turn) -> f64| {
            let sum: f64 = turns.iter().map(|(turn, count)| of(turn) * timing::as_f64(*count)).sum();
            sum / timing::as_f64(count)
        };
        Some(Turn {
            seconds: mean(|turn| turn.seconds),
            bound_seconds: mean(|turn| turn.bound_seconds),
            compute_seconds: mean(|turn| turn.compute_seconds),
            copy_seconds: mean(|turn| turn.copy_seconds),
            stalled_seconds: mean(|turn| turn.stalled_seconds),
            streamed_bytes: turns.iter().map(|(turn, count)| turn.streamed_bytes * count).sum::<u64>()
                / count,
            count: all,
        })
    }

    /// What to expect of each kind of turn, in the order of the goal's cycles.
    ///
    /// A turn's bound is proven: whatever is resident and in whatever order bytes come, its launches take their time, and for every window of neighbouring visits what
    /// does not fit the memory has to cross the link between the first and the last of them, while the rest of the turn waits.
    #[must_use]
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// The order of visits of the longest kind of turn.
    #[must_use]
    pub fn cycle(&self) -> &[UnitId] {
        &self.visited
    }

    /// Page-locked host bytes that a pager takes: those of pages that are streamed more than once, exactly, or the windows of the files that they lie in
    /// ([`Source::Registered`]), and a stage or two for the others. Where copies from page-locked memory are no
    /// faster (`Host`), only of pages that are converted on the way.
    ///
    /// # Panics
    /// If the plan was made for other units.
    #[must_use]
    pub fn pinned_bytes(&self, units: &Units, is_pinning_worth_it: bool) -> u64 {
        self.host_bytes(units, is_pinning_worth_it).pinned
    }

    /// The fewest page-locked host bytes that a pager can do with: two stages of a page each, which all goes through in every turn.
    ///
    /// # Panics
    /// If the plan was made for other units.
    #[must_use]
    pub fn least_pinned_bytes(&self, units: &Units, is_pinning_worth_it: bool) -> u64 {
        self.host_bytes(units, is_pinning_worth_it).least
    }

    /// Both at once: [`pinned_bytes`](Self::pinned_bytes) and [`least_pinned_bytes`](Self::least_pinned_bytes).
    ///
    /// # Panics
    /// If the plan was made for other units.
    #[must_use]
    pub fn host_bytes(&self, units: &Units, is_pinning_worth_it: bool) -> HostBytes {
        let layout = FeedLayout::new(self, units, is_pinning_worth_it);
        HostBytes { pinned: layout.pinned_bytes(), least: layout.least_pinned_bytes() }
    }

    /// The kinds of turns that it was made for.
    #[must_use]
    pub fn cycles(&self) -> &[Cycle] {
        &self.cycles
    }

    /// Whether all of the unit stays on the device.
    #[must_use]
    pub fn is_resident(&self, unit: UnitId) -> bool {
        self.tape.place(unit).is_some_and(|place| {
            let mut pages = self.tape.spans[place].touched.clone();
            pages.all(|page| self.choice.homes[page as usize] == Home::Resident)
        })
    }

    /// Pages of the unit that stay on the device, and all that it lies in, where neighbours share one at their border.
    #[must_use]
    pub fn pages_of(&self, unit: UnitId) -> (u32, u32) {
        let Some(place) = self.tape.place(unit) else { return (0, 0) };
        let pages = self.tape.spans[place].touched.clone();
        let all = tape::page_number(pages.len() as u64);
        let streamed = pages.filter(|page| self.choice.homes[*page as usize] != Home::Resident).count();
        (all - tape::page_number(streamed as u64), all)
    }

    /// The page that sizes were rounded to.
    #[must_use]
    pub fn page_bytes(&self) -> u64 {
        self.tape.page_bytes
    }

    /// The same plan with other rates of the host.
    #[must_use]
    pub fn fed_at(self, host: HostRates) -> Self {
        Self { host, ..self }
    }

    /// Seconds of a run's first turn, of the kind that comes first: from an empty device on, so all pages are mapped, residents are loaded too, in the order of the visits, and the host
    /// page-locks and fills what copies read.
    #[must_use]
    pub fn first_turn_seconds(&self) -> f64 {
        self.first_turns().next().unwrap_or(0.0)
    }

    /// Seconds of the whole phase: the first turn of each kind, as if they came one behind the other, all others at their own pace, and the end, when everything is unmapped.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "turns are far below 2^52")]
    pub fn seconds(&self) -> f64 {
        let steady = self.turns.iter().map(|turn| turn.count.saturating_sub(1) as f64 * turn.seconds);
        steady.sum::<f64>() + self.first_turns().sum::<f64>() + Mapping::of(self).end_seconds
    }

    /// Seconds of the first turn of each kind that has any, the run's first before the others: what an earlier one loads the later ones find, but for the ring.
    fn first_turns(&self) -> impl Iterator<Item = f64> {
        let mapped = Mapping::of(self).begin_seconds;
        let mut clock = Clock::new(&self.link, &self.tape).starting(mapped);
        if self.host != HostRates::FREE {
            let is_again = self.is_read_again();
            let is_kept = |page: usize| self.choice.homes[page] != Home::Resident && is_again[page];
            let bytes = |page: u32| self.tape.bytes_of(&(page..page + 1));
            let arena = (0..self.tape.pages).filter(|page| is_kept(*page as usize)).map(bytes).sum();
            let stage = self.tape.longest_bytes().min(STAGE_BYTES_MAX.max(self.tape.page_bytes));
            clock = clock.filled_by(Filling::new(self.host, arena, stage, mapped), &is_again);
        }
        let (mut script, mut before) = (self.script(), 0.0);
        let others = (0..self.cycles.len()).filter(|kind| *kind != self.first_kind);
        let cycles = std::iter::once(self.first_kind).chain(others).filter_map(|kind| self.cycles.get(kind));
        cycles.filter(|cycle| cycle.turns > 0).map(move |cycle| {
            clock.turn(&mut script, cycle);
            clock.now() - std::mem::replace(&mut before, clock.now())
        })
    }

    /// By page: whether more than one visit of the run needs it, in one turn or in several.
    pub(crate) fn is_read_again(&self) -> Vec<bool> {
        let mut visits = vec![0_u64; self.tape.spans.len()];
        for cycle in &self.cycles {
            let places = cycle.visits.iter().filter_map(|visit| self.tape.place(visit.unit));
            places.for_each(|place| visits[place] = visits[place].saturating_add(cycle.turns));
        }
        let mut is_again = vec![false; self.tape.pages as usize];
        for (span, _) in self.tape.spans.iter().zip(visits).filter(|(_, visits)| *visits != 1) {
            is_again[span.touched.start as usize..span.touched.end as usize].fill(true);
        }
        is_again
    }

    /// Visits of the longest turn; at least 1.
    pub(crate) fn visits_max(&self) -> usize {
        self.cycles.iter().map(|cycle| cycle.visits.len()).max().unwrap_or(0).max(1)
    }

    /// By page: whether turns of that kind need it.
    pub(crate) fn pages_of_kind(&self, kind: usize) -> Vec<bool> {
        let mut needed = vec![false; self.tape.pages as usize];
        let visits = self.cycles.get(kind).map_or(&[][..], |cycle| &cycle.visits);
        for span in
            visits.iter().filter_map(|visit| self.tape.place(visit.unit)).map(|place| &self.tape.spans[place])
        {
            needed[span.touched.start as usize..span.touched.end as usize].fill(true);
        }
        needed
    }

    /// The kind of the first turn.
    pub(crate) const fn first_kind(&self) -> usize {
        self.first_kind
    }

    /// The number of visits after which nothing is needed any more, if the run is one turn.
    pub(crate) fn only_visits(&self) -> Option<u64> {
        match &self.cycles[..] {
            [Cycle { visits, turns: 1 }] => Some(visits.len() as u64),
            _ => None,
        }
    }

    pub(crate) fn script(&self) -> Script {
        Script::new(self.choice.homes.clone(), self.choice.ring_pages)
    }

    pub(crate) const fn source(&self) -> Source {
        self.source
    }

    pub(crate) fn tape(&self) -> &Tape {
        &self.tape
    }

    pub(crate) fn homes(&self) -> &[Home] {
        &self.choice.homes
    }

    pub(crate) const fn ring_pages(&self) -> u32 {
        self.choice.ring_pages
    }

    fn of(tape: Arc<Tape>, choice: Choice, goal: &Goal) -> Self {
        let script = Script::new(choice.homes.clone(), choice.ring_pages);
        let memory_bytes = goal.budget_bytes / goal.page_bytes * goal.page_bytes;
        let turn = |cycle: &Cycle| {
            let steady = steady(&tape, &goal.link, &script, cycle);
            Turn {
                seconds: steady.seconds,
                bound_seconds: bound::lower_bound(&tape, &goal.link, cycle, memory_bytes),
                compute_seconds: cycle.seconds(),
                copy_seconds: timing::as_f64(steady.copied_bytes) / goal.link.bytes_per_second,
                stalled_seconds: steady.stalled_seconds,
                streamed_bytes: steady.copied_bytes,
                count: cycle.turns,
            }
        };
        let turns = goal.cycles.iter().map(turn).collect();
        Self::with_visits(tape, choice, goal, turns)
    }

    fn with_visits(tape: Arc<Tape>, choice: Choice, goal: &Goal, turns: Vec<Turn>) -> Self {
        let visits = goal.cycles.first().map_or(&[][..], |cycle| &cycle.visits);
        let visited: Vec<UnitId> = visits.iter().map(|visit| visit.unit).collect();
        let Goal { link, held, source, host, first_kind, .. } = *goal;
        let cycles = goal.cycles.clone();
        Self { tape, choice, cycles, link, turns, visited, held, source, host, first_kind }
    }
}

fn with_times(units: &Units, mut goal: Goal) -> Goal {
    if goal.cycles.iter().all(|cycle| cycle.seconds() == 0.0) {
        for visit in goal.cycles.iter_mut().flat_map(|cycle| &mut cycle.visits) {
            visit.held_seconds = timing::as_f64(units.bytes(visit.unit));
        }
    }
    goal
}
