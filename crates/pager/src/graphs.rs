use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use lighterage_device::{Backend, Error as DeviceError, FLAG_BYTES, Flags, Stream};

use crate::pager::Fault;
use crate::plan::{Piece, Plan};
use crate::state::State;
use crate::{Pager, Result};

/// How the two streams of a pager tell each other that something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joint {
    /// By events.
    Events,
    /// By flags, into graphs.
    Recording,
    /// By flags: what is queued are graphs.
    Replaying,
}

/// A turn that was recorded: its work as two graphs, of launches and of copies, joined by flags. [`Pager::replay`] does it again.
#[derive(Debug)]
pub struct Recorded<B: Backend> {
    compute: B::Graph,
    copy: B::Graph,
    /// Of which pager, and of which of its states.
    pager: u64,
    version: u64,
    leases: u64,
    arrivals: u64,
    copied_bytes: u64,
}

/// Names pagers within this process.
static NEXT_PAGER: AtomicU64 = AtomicU64::new(0);

pub(crate) fn next_pager() -> u64 {
    NEXT_PAGER.fetch_add(1, Ordering::Relaxed)
}

/// Everything of a pager's state that decides which calls the next turns make, numbers counted from the visit that is leased next. Where it is the same before and after a
/// turn, all further turns make the same calls.
#[derive(Debug, PartialEq)]
struct Shape {
    kind: usize,
    position: usize,
    queued: (u64, usize, usize),
    ahead: Vec<(usize, u64, bool)>,
    pending: Option<(usize, Vec<Piece>, u64, bool)>,
    covered: Option<u64>,
    script: Vec<(u32, Option<u64>)>,
    /// Whether nothing is loaded, or page-locked, for the first time, and a turn has gone by.
    is_settled: bool,
}

/// # Replaying turns
///
/// In the steady state each turn queues the same work. With [`replayable`](Pager::replayable) it can be recorded once, as one graph of the compute stream and one of the copy
/// stream, and queued by two calls a turn ([`capture`](Pager::capture), [`replay`](Pager::replay)).
///
/// What is an event else is a flag in them: one for the arrival of each visit, raised by the copies and taken by the launches, and one for each place at which copies wait for
/// launches. A flag holds one signal. That is enough, since each flag is raised once and taken once in a turn, and its next raise comes behind its last take on every path:
///
/// * *Arrival of visit v.* Its next raise, for visit v + n of the next turn (n visits each), stands behind copies into pages of the ring that visit v has read; they
///   wait for a flag that the launches raise when visit v is over, and visit v began by taking its arrival.
/// * *Launches are over, for visit v's copies.* The copies of v come behind the take, the arrival of v behind them; the launches take that before they are over with v, and the
///   next raise is for v + n, which nobody copies before v is leased.
///
/// Copies run ahead into the next turn, so the first launches of a turn take flags that the graph of the turn before has raised: for the first replay they are raised
/// beforehand, and after the last one they are taken. The host waits for none of it.
///
/// Only the steady state is recorded: everything resident is loaded, and all that is streamed lies page-locked. Where some of it goes through stages in every turn, where memory was given
/// up under pressure, and where a recorder looks at single leases, turns are queued piece by piece as ever. Each kind of turn is recorded by itself, and anew after one of another kind.
impl<B: Backend> Pager<B> {
    /// With flags, so that turns can be recorded: [`Plan::flag_bytes`] of the host ledger.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) where the device replays nothing, or has no room for them.
    pub fn replayable(self) -> Result<Self> {
        {
            let mut state = self.state();
            let count = state.arrivals.len() + state.freed.len();
            state.flags = Some(self.compute.device().flags(count)?);
        }
        Ok(self)
    }

    /// Whether a turn that begins now can be recorded.
    #[must_use]
    pub fn is_recordable(&self) -> bool {
        let state = self.state();
        state.flags.is_some()
            && state.joint == Joint::Events
            && state.deferred.is_none()
            && state.held_places.is_empty()
            && !state.is_pressed
            && std::sync::Arc::ptr_eq(&state.plan, &self.plan)
            && !self.is_looked_at()
            && self.shape(&state).is_some_and(|shape| shape.is_settled && shape.position == 0)
    }

    /// Does one turn, which `work` leases from its first visit to its last and launches, and records it on the way: `work` queues into graphs, which are then launched.
    /// It may queue on the pager's stream what a graph can hold (see [`Stream::capture`]), on no other stream anything. Ask [`is_recordable`](Self::is_recordable) before.
    ///
    /// No turn comes back that could be replayed if it was not a whole turn of the steady state; then it was done nevertheless.
    ///
    /// # Errors
    /// What `work` answers, or what failed while it was recorded. Nothing of the turn was done then, and the same turn may be done anew, without recording. A lease that is kept nevertheless
    /// has its weights: they are copied for it again; where that fails the next call says so. A failure
    /// while the graphs were launched is [`Error::Device`](crate::Error::Device) of streams that have failed.
    ///
    /// # Panics
    /// If the pager is not recordable.
    pub fn capture<T, E: From<crate::Error>>(
        &self,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<(T, Option<Recorded<B>>), E> {
        let begun = self.enter()?;
        let copy_stream = self.state().feed.stream().clone();
        let guard = Guard { pager: self, begun: &begun, is_open: true };
        let (mut made, mut copy) = (None, None);
        let compute = self.compute.capture(|| {
            copy = Some(copy_stream.capture(|| {
                made = Some(work());
                Ok(())
            })?);
            Ok(())
        });
        match (made, compute, copy) {
            (Some(Ok(value)), Ok(compute), Some(copy)) => {
                guard.close();
                Ok((value, self.launch(&begun, compute, copy)?))
            }
            (made, compute, _) => {
                guard.close();
                if let Err(error) = self.abandon(&begun) {
                    self.state().deferred.get_or_insert(error);
                }
                match (made, compute) {
                    (Some(Err(error)), _) => Err(error),
                    (_, Err(error)) => Err(crate::Error::Device(error).into()),
                    (_, Ok(_)) => unreachable!("graphs of work that did not run"),
                }
            }
        }
    }

    /// Does a recorded turn again, by two calls. False, and nothing was done, if it is not the one to do now: memory was given up or asked for meanwhile, or turns were leased
    /// in between. It is of no more use then.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if earlier work has failed, or a graph cannot be launched; then both streams have failed.
    ///
    /// # Safety
    /// - What `work` used when the turn was recorded, the weights aside, is mapped and there for this replay too: views, and what it took from pools and gave back.
    pub unsafe fn replay(&self, turn: &mut Recorded<B>) -> Result<bool> {
        let mut state = self.state();
        state.deferred.take().map_or(Ok(()), Err)?;
        let is_ours = turn.pager == self.number && turn.version == state.version;
        let is_pressed = state.is_pressed || self.compute.device().ledger().excess_bytes() > 0;
        if !is_ours || state.joint != Joint::Replaying || is_pressed || self.is_looked_at() {
            return Ok(false);
        }
        // SAFETY: the caller's promise; the weights are where they were, since the version is the same.
        unsafe { state.feed.stream().replay(&mut turn.copy) }?;
        // SAFETY: as above.
        unsafe { self.launch_second(&state, &mut turn.compute) }?;
        state.leases += turn.leases;
        state.copied_bytes += turn.copied_bytes;
        if let Some(recorder) = self.compute.device().recorder() {
            recorder.arrived(turn.arrivals, turn.copied_bytes);
        }
        Ok(true)
    }

    /// From now on work goes into graphs. What was copied ahead by events will be taken as flags: they are raised behind those copies.
    fn enter(&self) -> Result<Begun> {
        let mut state = self.state();
        let state = &mut *state;
        let shape = self.shape(state);
        assert!(
            state.joint == Joint::Events && state.flags.is_some() && state.held_places.is_empty(),
            "a turn recorded {:?}, with {} leases held, with flags: {}",
            state.joint,
            state.held_places.len(),
            state.flags.is_some()
        );
        let raised = state.announced();
        let copies = state.feed.stream();
        self.of_all(state, &raised, |flags, slot| copies.raise(flags, slot))?;
        state.joint = Joint::Recording;
        let (leases, issued, copied_bytes) = (state.leases, state.issued, state.copied_bytes);
        Ok(Begun { shape, raised, leases, issued, copied_bytes })
    }

    /// Launches what was recorded.
    fn launch(
        &self,
        begun: &Begun,
        mut compute: B::Graph,
        mut copy: B::Graph,
    ) -> Result<Option<Recorded<B>>> {
        let mut state = self.state();
        // SAFETY: what was promised for each piece of work when it was recorded, just now, holds: it is done once, as if it had been queued then.
        if let Err(error) = unsafe { state.feed.stream().replay(&mut copy) } {
            drop(state);
            self.abandon(begun)?;
            return Err(error.into());
        }
        state.joint = Joint::Replaying;
        // SAFETY: as above.
        unsafe { self.launch_second(&state, &mut compute) }?;
        if begun.shape.is_none() || begun.shape != self.shape(&state) {
            self.leave(&mut state)?;
            return Ok(None);
        }
        let (leases, arrivals) = (state.leases - begun.leases, state.issued - begun.issued);
        let copied_bytes = state.copied_bytes - begun.copied_bytes;
        let (pager, version) = (self.number, state.version);
        Ok(Some(Recorded { compute, copy, pager, version, leases, arrivals, copied_bytes }))
    }

    /// Both graphs wait for each other: where the second cannot be launched, the first is let go, and both streams have failed.
    ///
    /// # Safety
    /// - As [`Stream::replay`].
    unsafe fn launch_second(&self, state: &State<B>, compute: &mut B::Graph) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise.
        let launched = unsafe { self.compute.replay(compute) };
        launched.inspect_err(|error| {
            let why = format!("the launches that copies wait for could not be queued: {error}");
            state.flags.iter().for_each(|flags| flags.give_up(&why));
        })
    }

    /// Does something for the flags of all these arrivals. Where that fails half way nobody may wait for the others.
    fn of_all(
        &self,
        state: &State<B>,
        slots: &[usize],
        each: impl Fn(&Flags<B>, usize) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let Some(flags) = &state.flags else { return Ok(()) };
        let outcome = slots.iter().try_for_each(|slot| each(flags, *slot));
        outcome.inspect_err(|error| flags.give_up(&format!("a flag was neither raised nor taken: {error}")))
    }

    /// Goes back to events, if graphs are what is queued: the compute stream takes the flags of what was copied ahead.
    pub(crate) fn leave(&self, state: &mut State<B>) -> Result<()> {
        if state.joint != Joint::Replaying {
            return Ok(());
        }
        state.version += 1;
        let raised = state.announced();
        self.of_all(state, &raised, |flags, slot| self.compute.take(flags, slot))?;
        // It waits for all of them now.
        if let Some(last) = raised.last() {
            state.waited = state.waited.max(state.arrivals[*last].issued);
        }
        state.joint = Joint::Events;
        Ok(())
    }

    /// Nothing of what was recorded will be done: it is as if memory had been given back and taken again in this moment.
    fn abandon(&self, begun: &Begun) -> Result<()> {
        let mut state = self.state();
        let state = &mut *state;
        state.joint = Joint::Events;
        state.version += 1;
        let taken = self.of_all(state, &begun.raised, |flags, slot| self.compute.take(flags, slot));
        let quiet = self.quiet(state);
        // Also after a failure: what was recorded is not there. The next lease waits once more then, before anything is copied.
        state.is_settled &= taken.is_ok() && quiet.is_ok();
        state.deferred = None;
        (state.leases, state.copied_bytes) = (begun.leases, begun.copied_bytes);
        state.forget_ring();
        state.lost = state.held.keys().copied().collect();
        taken?;
        quiet?;
        // What was not copied, or is not waited for, is not there.
        self.bring_held(state).inspect_err(|_| state.forget_copies())?;
        state.lost.clear();
        Ok(())
    }

    /// Copies what leases that are held read from the ring, and makes launches wait for it: its first copies were recorded and not done. Nothing is under way.
    fn bring_held(&self, state: &mut State<B>) -> Result<()> {
        let held: Vec<(u64, Range<u32>)> = state.held_visits().collect();
        for (number, pages) in held {
            for piece in state.script.bring(number, pages) {
                self.queue_copy(state, &piece)?;
            }
            let slot = self.slot(number);
            state.feed.stream().record(&state.arrivals[slot].event)?;
            self.compute.wait(&state.arrivals[slot].event)?;
        }
        state.waited = state.issued;
        Ok(())
    }

    /// Whether somebody wants to see leases one by one.
    fn is_looked_at(&self) -> bool {
        self.compute.device().recorder().is_some_and(lighterage_device::Recorder::is_looking)
    }

    /// None while a lease is held.
    fn shape(&self, state: &State<B>) -> Option<Shape> {
        if !state.held_places.is_empty() {
            return None;
        }
        let sequence = if state.is_ordered { state.leased } else { state.followed? };
        let base = sequence.number;
        let relative = |number: u64| number.checked_sub(base);
        let pending = |pending: &crate::state::Pending| {
            let pieces = pending
                .pieces
                .iter()
                .map(|piece| Piece { after: piece.after.saturating_sub(base), ..piece.clone() });
            (pending.slot, pieces.collect(), pending.queued_bytes, pending.is_announced)
        };
        let is_announced = |slot: usize| state.arrivals[slot].issued > state.waited;
        let ahead = state.ahead.iter().map(|ahead| (ahead.slot, ahead.bytes, is_announced(ahead.slot)));
        let queued = if state.is_ordered { state.queued } else { sequence };
        let (visits, needed) =
            (self.plan.cycles().get(sequence.kind)?.visits.len(), self.plan.pages_of_kind(sequence.kind));
        Some(Shape {
            kind: sequence.kind,
            position: sequence.position,
            queued: (relative(queued.number)?, queued.kind, queued.position),
            ahead: if state.is_ordered { ahead.collect() } else { Vec::new() },
            pending: state.pending.as_ref().map(pending),
            covered: relative(state.covered + self.plan.visits_max() as u64).filter(|_| state.is_ordered),
            script: state.script.relative(base, &needed),
            is_settled: state.is_settled
                && state.leases >= visits as u64
                && state.script.is_loaded(&needed)
                && state.feed.is_settled(&state.plan, &needed),
        })
    }

    /// Marks that a visit's copies are queued.
    pub(crate) fn announce_arrival(&self, state: &State<B>, slot: usize) -> Result<(), DeviceError> {
        let copies = state.feed.stream();
        match state.recorded_into() {
            Some(flags) => copies.raise(flags, slot),
            None => copies.record(&state.arrivals[slot].event),
        }
    }

    /// Makes later launches wait for a visit's copies.
    pub(crate) fn take_arrival(&self, state: &State<B>, slot: usize) -> Result<(), DeviceError> {
        match state.recorded_into() {
            Some(flags) => self.take(&self.compute, flags, slot),
            None => self.compute.wait(&state.arrivals[slot].event),
        }
    }

    /// Makes later copies wait for all launches so far.
    pub(crate) fn take_launches(&self, state: &State<B>, slot: usize) -> Result<(), DeviceError> {
        let copies = state.feed.stream();
        match state.recorded_into() {
            Some(flags) => {
                let flag = state.arrivals.len() + slot;
                self.compute.raise(flags, flag)?;
                self.take(copies, flags, flag)
            }
            None => {
                self.compute.record(&state.freed[slot])?;
                copies.wait(&state.freed[slot])
            }
        }
    }

    fn take(&self, stream: &Stream<B>, flags: &Flags<B>, flag: usize) -> Result<(), DeviceError> {
        stream.take(flags, flag)?;
        if self.has(Fault::LeavesFlagsRaised) { stream.raise(flags, flag) } else { Ok(()) }
    }
}

/// What was so before a turn was recorded.
struct Begun {
    shape: Option<Shape>,
    /// Flags that were raised for it.
    raised: Vec<usize>,
    leases: u64,
    issued: u64,
    copied_bytes: u64,
}

/// Ends the recording also where the work panics.
struct Guard<'p, B: Backend> {
    pager: &'p Pager<B>,
    begun: &'p Begun,
    is_open: bool,
}

impl<B: Backend> Guard<'_, B> {
    fn close(mut self) {
        self.is_open = false;
    }
}

impl<B: Backend> Drop for Guard<'_, B> {
    fn drop(&mut self) {
        if self.is_open {
            // What was recorded is lost: nothing of it is where the state says.
            let abandoned = self.pager.abandon(self.begun);
            let why =
                crate::Error::Device(DeviceError::Stream("a turn panicked while it was recorded".to_owned()));
            self.pager.state().deferred = Some(abandoned.err().unwrap_or(why));
        }
    }
}

impl<B: Backend> State<B> {
    /// The flags, while work goes into graphs.
    fn recorded_into(&self) -> Option<&Flags<B>> {
        self.flags.as_ref().filter(|_| self.joint == Joint::Recording)
    }

    /// Arrivals that are queued and that the launches will wait for.
    fn announced(&self) -> Vec<usize> {
        let slots = self.ahead.iter().map(|ahead| ahead.slot);
        slots.filter(|slot| self.arrivals[*slot].issued > self.waited).collect()
    }
}

impl Plan {
    /// Bytes of page-locked host memory that flags take, with which a pager can record turns: [`Pager::replayable`].
    #[must_use]
    pub fn flag_bytes(&self) -> u64 {
        let visits = self.visits_max();
        (visits.max(self.tape().spans.len()) + visits) as u64 * FLAG_BYTES
    }
}
