use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lighterage_device::{Backend, Stream, What};

use crate::graphs;
use crate::lease::Lease;
use crate::plan::{Cycle, Piece, Plan};
use crate::sequence::Sequence;
use crate::state::{Ahead, Pending, State};
use crate::units::{UnitId, Units};
use crate::{Error, Result};

/// What a pager has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Leases given.
    pub leases: u64,
    /// Bytes whose copies to the device were queued, alignment included.
    pub copied_bytes: u64,
    /// Bytes of files that are page-locked where they lie: [`Source::Registered`](crate::Source::Registered).
    pub registered_bytes: u64,
    /// Bytes of page-locked memory that weights are copied into on their way.
    pub pinned_bytes: u64,
}

/// Keeps a phase's weights: leases units in the order of the cycle, again and again, and streams ahead.
///
/// All of its memory is charged to the ledger and mapped when it is made. In the steady state a lease costs one wait between streams and its drop one
/// event and the copies that have room now: nothing is mapped, allocated, or waited for by the host. Under pressure it gives memory back and goes on with less:
/// [`shrink`](Pager::shrink).
#[derive(Debug)]
pub struct Pager<B: Backend> {
    pub(crate) compute: Stream<B>,
    pub(crate) units: Arc<Units>,
    /// What it was made for.
    pub(crate) plan: Arc<Plan>,
    /// Whether leases may come in any order, so that nothing can ever be streamed.
    pub(crate) takes_any_order: bool,
    /// Its name, as recorded turns have it.
    pub(crate) number: u64,
    state: Mutex<State<B>>,
    #[cfg(test)]
    fault: Option<Fault>,
}

/// Mistakes that a test can plant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Launches do not wait for the copy of the unit that they read.
    NoWaitForCopy,
    /// The copy does not wait for the launches that read what was in its place.
    NoWaitForLaunches,
    /// The ring's space is used again while the unit before the one that is free now is still read.
    OneUnitEarly,
    /// Whoever takes a flag in a recorded turn leaves it raised.
    LeavesFlagsRaised,
    /// Under pressure pages are given back while a lease of them is held.
    MovesHeldPages,
    /// Weights are known by their names: those of the first model that has such a name.
    #[cfg(test)]
    KnownByName,
}

impl<B: Backend> Pager<B> {
    /// Takes the plan's bytes from the ledger and starts to read ahead; `stream` is where the leased weights are used.
    ///
    /// # Errors
    /// [`Error::Plan`] if the plan was made for another cycle, other units or a page that is not one of the device's,
    /// [`Error::HostBudget`] if what is to be page-locked does not fit the host ledger, [`Error::Device`] if memory is refused.
    pub fn new(stream: &Stream<B>, units: Arc<Units>, cycle: &[UnitId], plan: &Plan) -> Result<Self> {
        check_cycle(&units, cycle, plan)?;
        Self::build(stream, units, plan.clone(), None)
    }

    /// As [`Pager::new`], for all cycles of the plan.
    ///
    /// # Errors
    /// As [`Pager::new`].
    pub fn planned(stream: &Stream<B>, units: Arc<Units>, plan: &Plan) -> Result<Self> {
        Self::new(stream, units, plan.cycle(), plan)
    }

    /// A pager that holds every unit and takes leases in any order: for a dry pass, which finds the cycle out, and for modules run alone.
    ///
    /// # Errors
    /// As [`Pager::new`].
    pub fn resident(stream: &Stream<B>, units: Arc<Units>) -> Result<Self> {
        let cycle: Vec<UnitId> = units.iter().map(|(id, _)| id).collect();
        let plan = Plan::resident(&units, &cycle, stream.device().info().page_bytes);
        let mut pager = Self::build(stream, units, plan, None)?;
        pager.takes_any_order = true;
        Ok(pager)
    }

    /// The unit's weights, for launches on the pager's stream while the lease lives. Where the plan streams, every unit is leased in the order of
    /// the cycle, and several leases may be held as far as the ring has room.
    ///
    /// # Errors
    /// [`Error::Order`] if the plan streams and another unit is next, [`Error::Room`] if the unit can only be had after other leases are dropped,
    /// [`Error::NotPlanned`] if it is not in the plan, else what failed before or in a copy; the same unit may then be asked for again.
    pub fn lease(&self, unit: UnitId) -> Result<Lease<'_, B>> {
        let mut state = self.state();
        state.deferred.take().map_or(Ok(()), Err)?;
        self.settle(&mut state)?;
        self.check_order(&state, unit)?;
        let place = self.plan.tape().place(unit).ok_or(Error::NotPlanned { unit: unit.0 })?;
        let visit = if state.is_ordered {
            Some(self.lease_ordered(&mut state, unit, place)?)
        } else {
            self.lease_any(&mut state, place)?;
            state.follow(unit);
            None
        };
        state.leases += 1;
        let number = state.trace.lease(unit, self.modelled_seconds());
        state.held_places.insert(number, place);
        let address = state.memory.address(self.plan.tape().spans[place].offset);
        drop(state);
        let unit = self.units.get(unit);
        let span = self.compute.begin(What::Lease, unit.bytes(), || unit.name.clone().into());
        Ok(Lease { pager: self, unit, address, visit, number, span })
    }

    /// Says which kind of turn begins: the number of a cycle of the plan. Without a call all turns are of the first kind.
    ///
    /// Read ahead is for the same kind as before, so a change costs what of it is not there yet. A turn that leases nothing needs no call.
    ///
    /// Here the pager also looks at the ledger: what is granted beyond a cap that was lowered it gives back as far as it can ([`shrink`](Self::shrink)), and what it
    /// gave back it takes again when a whole turn went by without pressure and there is room ([`regrow`](Self::regrow)).
    ///
    /// # Errors
    /// [`Error::Turn`] if the plan streams and has no such cycle; what failed when memory was given back or taken: the call may be made again.
    pub fn turn(&self, kind: usize) -> Result<()> {
        let mut state = self.state();
        state.trace.turn(kind, self.modelled_seconds());
        let cycles = self.plan.cycles().len();
        if !state.is_ordered {
            if state.followed.is_none_or(|followed| !followed.begins(kind)) {
                self.leave(&mut state)?;
            }
            state.followed = (kind < cycles).then(|| Sequence::begin(&self.plan, kind, 0));
        } else if kind >= cycles {
            return Err(Error::Turn { kind, cycles });
        } else if !state.leased.begins(kind) {
            self.leave(&mut state)?;
            state.turn_to(kind);
        }
        self.adapt(&mut state)
    }

    /// Whether a turn may be of that kind: where leases come in any order all may.
    #[must_use]
    pub fn has_turn(&self, kind: usize) -> bool {
        self.takes_any_order || kind < self.plan.cycles().len()
    }

    /// Leases the next units of the turn for nothing, so many of them, and ends each lease at once: a turn that leaves something out is taken whole nevertheless. Where leases may come in
    /// any order there is nothing to pass over.
    ///
    /// # Errors
    /// As [`lease`](Self::lease).
    pub fn pass_over(&self, count: u64) -> Result<()> {
        for _ in 0..count {
            let next = {
                let state = self.state();
                if state.is_ordered { Some(state.leased) } else { state.followed }
                    .and_then(|at| at.unit(&self.plan))
            };
            let Some(unit) = next else { return Ok(()) };
            drop(self.lease(unit)?);
        }
        Ok(())
    }

    /// The units leased so far, in order.
    #[must_use]
    pub fn trace(&self) -> Vec<UnitId> {
        self.state().trace.units()
    }

    /// The kinds of turns seen so far, by the last turn of each, with the times that the device's model gives its launches; 0 where it has none.
    #[must_use]
    pub fn cycles(&self) -> std::collections::BTreeMap<usize, Cycle> {
        self.state().trace.cycles(self.modelled_seconds())
    }

    /// The counters now.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let state = self.state();
        let (registered_bytes, pinned_bytes) = state.feed.locked_bytes();
        let (leases, copied_bytes) = (state.leases, state.copied_bytes);
        Statistics { leases, copied_bytes, registered_bytes, pinned_bytes }
    }

    /// What it was made for. Under pressure it keeps to another one: [`present_plan`](Self::present_plan).
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What it keeps to now: the plan that it was made for, or one for less memory.
    #[must_use]
    pub fn present_plan(&self) -> Arc<Plan> {
        Arc::clone(&self.state().plan)
    }

    /// Where the leased weights are used.
    #[must_use]
    pub const fn stream(&self) -> &Stream<B> {
        &self.compute
    }

    pub(crate) fn build(
        stream: &Stream<B>,
        units: Arc<Units>,
        plan: Plan,
        fault: Option<Fault>,
    ) -> Result<Self> {
        let page = stream.device().info().page_bytes;
        if !plan.page_bytes().is_multiple_of(page) {
            return Err(Error::Plan { what: "bytes of a page", expected: plan.page_bytes(), got: page });
        }
        let plan = Arc::new(plan);
        #[cfg(test)]
        let units = if fault == Some(Fault::KnownByName) { Arc::new(units.known_by_name()) } else { units };
        let state = State::new(stream, &units, &plan)?;
        let pager = Self {
            compute: stream.clone(),
            units,
            plan,
            takes_any_order: false,
            number: graphs::next_pager(),
            state: Mutex::new(state),
            #[cfg(test)]
            fault,
        };
        #[cfg(not(test))]
        let _ = fault;
        pager.queue_ahead(&mut pager.state())?;
        Ok(pager)
    }

    /// Refuses a unit that is not next, where the plan streams.
    fn check_order(&self, state: &State<B>, unit: UnitId) -> Result<()> {
        match state.leased.unit(&self.plan) {
            Some(expected) if state.is_ordered && expected != unit => {
                Err(Error::Order { expected: self.name(expected), got: self.name(unit) })
            }
            _ => Ok(()),
        }
    }

    fn name(&self, unit: UnitId) -> String {
        let spec = self.units.iter().nth(unit.0 as usize);
        spec.map_or_else(|| format!("number {}", unit.0), |(_, spec)| spec.name.clone())
    }

    /// The next visit of the cycle, and its number.
    fn lease_ordered(&self, state: &mut State<B>, unit: UnitId, place: usize) -> Result<u64> {
        let visit = state.leased.number;
        while state.queued.number <= visit && self.queue_next(state)? {}
        if state.queued.number <= visit {
            let (held, held_bytes) = (state.held.len(), state.held_bytes());
            let (bytes, ring) = (self.units.bytes(unit), state.plan.ring_bytes());
            return Err(Error::Room { unit: self.name(unit), bytes, ring, held, held_bytes });
        }
        self.wait_for_arrival(state, self.slot(visit))?;
        state.ahead.pop_front();
        state.held.insert(visit, place);
        state.leased.advance(&self.plan);
        Ok(visit)
    }

    /// Any unit, where all are resident.
    fn lease_any(&self, state: &mut State<B>, place: usize) -> Result<()> {
        // What is read ahead waits for its turn unless it is in the way.
        if !state.arrivals[place].is_queued {
            self.finish_pending(state)?;
        }
        if !state.arrivals[place].is_queued {
            self.begin(state, place, place, 0);
            self.finish_pending(state)?;
        }
        state.ahead.retain(|ahead| ahead.slot != place);
        self.wait_for_arrival(state, place)
    }

    fn finish_pending(&self, state: &mut State<B>) -> Result<()> {
        while let Some(pending) = &mut state.pending {
            pending.is_wanted = true;
            self.queue_piece(state)?;
        }
        Ok(())
    }

    pub(crate) fn release(&self, visit: Option<u64>, number: usize) {
        let mut state = self.state();
        state.trace.release(number, self.modelled_seconds());
        state.held_places.remove(&number);
        if let Some(visit) = visit {
            let was_held = state.held.remove(&visit).is_some();
            assert!(was_held, "visit {visit} released twice");
            state.lost.remove(&visit);
        }
        if let Err(error) = self.queue_ahead(&mut state) {
            state.deferred.get_or_insert(error);
        }
    }

    /// Queues every copy that has room.
    pub(crate) fn queue_ahead(&self, state: &mut State<B>) -> Result<()> {
        // After a change that failed half way the next lease goes on with it.
        while state.is_settled && !self.is_over(state) && self.queue_next(state)? {}
        Ok(())
    }

    /// Whether all is queued that a run of one turn leases: what would be read ahead nobody would use. Who goes on nevertheless gets it when he asks.
    fn is_over(&self, state: &State<B>) -> bool {
        let is_last = |visits| state.queued.number >= visits && state.pending.is_none();
        state.is_ordered && self.plan.only_visits().is_some_and(is_last)
    }

    /// Goes on with the copies of the next visit; false if there is none, or no room for it yet.
    fn queue_next(&self, state: &mut State<B>) -> Result<bool> {
        if state.pending.is_none() && !self.begin_next(state) {
            return Ok(false);
        }
        self.queue_piece(state)
    }

    /// Finds out what the next visit needs; false if there is none, or if it is too far ahead.
    fn begin_next(&self, state: &mut State<B>) -> bool {
        let number = state.queued.number;
        let Some(unit) = state.queued.unit(&self.plan) else { return false };
        let Some(place) = self.plan.tape().place(unit) else { return false };
        if state.is_ordered {
            // Visits that are told apart by their events.
            if number - state.leased.number >= state.freed.len() as u64 {
                return false;
            }
            self.begin(state, place, self.slot(number), number);
        } else {
            if number >= state.freed.len() as u64 {
                return false;
            }
            if state.arrivals[place].is_queued {
                state.queued.advance(&self.plan);
                return self.begin_next(state);
            }
            self.begin(state, place, place, 0);
        }
        true
    }

    fn begin(&self, state: &mut State<B>, place: usize, slot: usize, number: u64) {
        let mut pieces = Vec::new();
        state.script.visit(number, self.plan.tape().spans[place].touched.clone(), &mut pieces);
        // In order, what is there already was waited for when an earlier visit brought it.
        let brought = if state.is_ordered { state.given_up } else { state.issued };
        let is_announced = !pieces.is_empty() || brought > state.waited;
        let pieces = pieces.into();
        state.pending = Some(Pending { slot, pieces, queued_bytes: 0, is_wanted: false, is_announced });
    }

    /// Queues the next copy of the pending visit, or ends it; false if there is no room for it yet.
    fn queue_piece(&self, state: &mut State<B>) -> Result<bool> {
        let Some(pending) = &state.pending else { return Ok(false) };
        let Some(piece) = pending.pieces.front().cloned() else { return self.announce(state).map(|()| true) };
        let bytes = self.plan.tape().bytes_of(&piece.pages);
        let early = u64::from(self.has(Fault::OneUnitEarly));
        let is_wanted = pending.is_wanted || (state.is_ordered && state.queued.number == state.leased.number);
        let ahead = state.ahead.iter().map(|ahead| ahead.bytes).sum::<u64>() + pending.queued_bytes;
        let is_near = is_wanted || ahead == 0 || ahead + bytes <= self.read_ahead_bytes(state);
        if !is_near || piece.after > state.oldest() + early {
            return Ok(false);
        }
        self.wait_for_launches(state, piece.after)?;
        self.queue_copy(state, &piece)?;
        if let Some(pending) = &mut state.pending {
            pending.pieces.pop_front();
            pending.queued_bytes += bytes;
        }
        Ok(true)
    }

    /// Queues a copy. Launches that read what was in its place were waited for, and those that read it wait for the arrival.
    pub(crate) fn queue_copy(&self, state: &mut State<B>, piece: &Piece) -> Result<()> {
        let tape = self.plan.tape();
        let bytes = tape.bytes_of(&piece.pages);
        let target = state.memory.address(u64::from(piece.pages.start) * tape.page_bytes);
        let arrival =
            state.feed.stream().begin(What::Arrival, bytes, || self.name_of(piece.pages.start).into());
        // SAFETY: the tape is mapped until `drop` has synchronised the streams, and the units are kept until then; the callers order the launches that read this place.
        unsafe { state.feed.copy(tape, &self.units, piece, target) }?;
        state.feed.stream().end(arrival);
        state.issued += 1;
        state.copied_bytes += bytes;
        Ok(())
    }

    /// The pending visit's copies are all queued.
    fn announce(&self, state: &mut State<B>) -> Result<()> {
        let Some(Pending { slot, queued_bytes: bytes, is_announced, .. }) = state.pending else {
            return Ok(());
        };
        let issued = if is_announced {
            self.announce_arrival(state, slot)?;
            state.issued
        } else {
            0
        };
        state.pending = None;
        state.arrivals[slot].issued = issued;
        state.arrivals[slot].is_queued = true;
        state.ahead.push_back(Ahead { slot, bytes });
        state.queued.advance(&self.plan);
        Ok(())
    }

    /// The name of the first unit of a page, for recordings.
    fn name_of(&self, page: u32) -> String {
        let spans = &self.plan.tape().spans;
        let span = spans.iter().find(|span| span.touched.contains(&page));
        span.map(|span| self.units.get(span.unit).name.clone()).unwrap_or_default()
    }

    fn wait_for_arrival(&self, state: &mut State<B>, slot: usize) -> Result<()> {
        let issued = state.arrivals[slot].issued;
        if issued > state.waited && !self.has(Fault::NoWaitForCopy) {
            self.take_arrival(state, slot)?;
            state.waited = issued;
        }
        Ok(())
    }

    /// Makes the copy stream wait for the launches of all visits below `after`, once.
    fn wait_for_launches(&self, state: &mut State<B>, after: u64) -> Result<()> {
        if after > state.covered {
            if !self.has(Fault::NoWaitForLaunches) {
                self.take_launches(state, self.slot(after - 1))?;
            }
            state.covered = state.oldest();
        }
        Ok(())
    }

    /// How many bytes may be copied ahead of the leases: as many as the ring has, or two of the largest units.
    fn read_ahead_bytes(&self, state: &State<B>) -> u64 {
        state.plan.ring_bytes().max(2 * self.plan.tape().longest_bytes())
    }

    /// Of a visit's events.
    pub(crate) fn slot(&self, visit: u64) -> usize {
        usize::try_from(visit % self.plan.visits_max() as u64).unwrap_or(usize::MAX)
    }

    fn modelled_seconds(&self) -> f64 {
        self.compute.device().backend().modelled().map_or(0.0, |modelled| modelled.compute_seconds)
    }

    #[cfg(test)]
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "faults are planted in tests only")]
    pub(crate) const fn has(&self, _: Fault) -> bool {
        false
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State<B>> {
        // The fields agree after every statement that can panic, so a panic elsewhere does not spoil them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Drop for Pager<B> {
    fn drop(&mut self) {
        // Copies read the files and write the ring: they end before either goes. Their stream is the pager's own, and records in `capture` only. An error is not lost: a failed
        // stream reports it to every later call.
        let mut state = self.state();
        let _ = state.feed.stream().synchronize();
        // Launches read the ring and what is resident.
        self.compute.drop_when_done(state.memory.range());
        state.feed.release_files();
    }
}

fn check_cycle(units: &Units, cycle: &[UnitId], plan: &Plan) -> Result<()> {
    let differ = |what, expected, got| Err(Error::Plan { what, expected, got });
    if cycle.len() != plan.cycle().len() {
        return differ("visits of the cycle", plan.cycle().len() as u64, cycle.len() as u64);
    }
    if let Some((expected, got)) = plan.cycle().iter().zip(cycle).find(|(expected, got)| expected != got) {
        return differ("unit in the cycle", u64::from(expected.0), u64::from(got.0));
    }
    // Of every cycle: views of the leased weights are as long as the units say, and lie where the plan says.
    for span in &plan.tape().spans {
        if span.unit.0 as usize >= units.count() {
            return differ("number of units", u64::from(span.unit.0) + 1, units.count() as u64);
        }
        let bytes = units.bytes(span.unit);
        if bytes != span.bytes {
            return differ("bytes of a unit", span.bytes, bytes);
        }
    }
    Ok(())
}
