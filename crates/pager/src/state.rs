use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use lighterage_device::{Backend, Event, Flags, Stream, StreamKind};

use crate::feed::Feed;
use crate::graphs::Joint;
use crate::memory::Memory;
use crate::plan::{Piece, Plan, Script};
use crate::sequence::Sequence;
use crate::trace::Trace;
use crate::units::{UnitId, Units};
use crate::{Error, Result};

/// What of a pager changes. Every field is changed after the calls that can fail, so that a call may be made again.
#[derive(Debug)]
pub(crate) struct State<B: Backend> {
    /// What is kept to now: the plan that the pager was made for, or one for less memory.
    pub(crate) plan: Arc<Plan>,
    pub(crate) memory: Memory<B>,
    /// Whether all pages are mapped as the plan has them: not after a change that failed half way.
    pub(crate) is_settled: bool,
    /// Whether memory was asked for since the last turn began.
    pub(crate) is_pressed: bool,
    /// Whether units are leased in the order of the cycle: where some are streamed, or were.
    pub(crate) is_ordered: bool,
    pub(crate) feed: Feed<B>,
    pub(crate) script: Script,
    /// The visit whose copies are being queued.
    pub(crate) pending: Option<Pending>,
    /// Visits whose copies are queued, and the one after them.
    pub(crate) queued: Sequence,
    /// Visits leased so far, and the one that is next.
    pub(crate) leased: Sequence,
    /// The same where any order will do, as long as it is that of the cycle.
    pub(crate) followed: Option<Sequence>,
    /// Those of them that are not released yet, with their places on the tape.
    pub(crate) held: BTreeMap<u64, usize>,
    /// Every lease that is not released yet, by its number in the trace, with its place.
    pub(crate) held_places: BTreeMap<usize, usize>,
    pub(crate) arrivals: Vec<Arrival<B>>,
    /// By visit, modulo their number: recorded on the compute stream when copies wait for the visit's launches.
    pub(crate) freed: Vec<Event<B>>,
    /// The copy stream waits for the launches of all visits below this number.
    pub(crate) covered: u64,
    /// Copies queued so far, and how many of them the compute stream waits for.
    pub(crate) issued: u64,
    pub(crate) waited: u64,
    /// Copies queued when visits were last given up: nobody leased, and so waited for, what they brought.
    pub(crate) given_up: u64,
    /// Bytes copied for each visit that is queued but not leased yet.
    pub(crate) ahead: VecDeque<Ahead>,
    pub(crate) trace: Trace,
    pub(crate) leases: u64,
    pub(crate) copied_bytes: u64,
    /// For turns that are recorded: one for each arrival, then one for each of `freed`.
    pub(crate) flags: Option<Flags<B>>,
    pub(crate) joint: Joint,
    /// Counts what makes recorded turns useless.
    pub(crate) version: u64,
    /// What a lease's drop could not report.
    pub(crate) deferred: Option<Error>,
    /// Visits of held leases that have not what they were to read: copies of a failed recording could not be made again.
    pub(crate) lost: BTreeSet<u64>,
}

/// A visit whose copies are known and not all queued.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Of its arrival.
    pub(crate) slot: usize,
    pub(crate) pieces: VecDeque<Piece>,
    /// Bytes of those of its copies that are queued.
    pub(crate) queued_bytes: u64,
    /// Whether a lease wants it now, however far ahead that is.
    pub(crate) is_wanted: bool,
    /// Whether the launches have to be told when it is there.
    pub(crate) is_announced: bool,
}

/// What was copied for a visit to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    pub(crate) slot: usize,
    pub(crate) bytes: u64,
}

/// When a visit's bytes are there.
#[derive(Debug)]
pub(crate) struct Arrival<B: Backend> {
    pub(crate) event: Event<B>,
    /// How many copies were queued when the event was recorded; 0: there is nothing to wait for.
    pub(crate) issued: u64,
    /// Whether its copies are queued, where each unit is loaded once.
    pub(crate) is_queued: bool,
}

impl<B: Backend> State<B> {
    /// Nothing queued, nothing leased; makes the copy stream and all events.
    pub(crate) fn new(compute: &Stream<B>, units: &Units, plan: &Arc<Plan>) -> Result<Self> {
        let device = compute.device();
        let (visits, first) = (plan.visits_max(), Sequence::begin(plan, plan.first_kind(), 0));
        let arrival = |_| Ok(Arrival { event: device.event()?, issued: 0, is_queued: false });
        let slots = 0..visits.max(plan.tape().spans.len());
        Ok(Self {
            feed: Feed::new(device.stream(StreamKind::Copy)?, units, plan)?,
            memory: Memory::new(device, plan)?,
            plan: Arc::clone(plan),
            is_settled: true,
            is_pressed: false,
            is_ordered: plan.ring_bytes() > 0,
            followed: Some(first),
            held_places: BTreeMap::new(),
            script: plan.script(),
            pending: None,
            queued: first,
            leased: first,
            held: BTreeMap::new(),
            arrivals: slots.map(arrival).collect::<Result<_>>()?,
            freed: (0..visits).map(|_| device.event()).collect::<Result<_, _>>()?,
            covered: 0,
            issued: 0,
            waited: 0,
            given_up: 0,
            ahead: VecDeque::new(),
            trace: Trace::default(),
            leases: 0,
            copied_bytes: 0,
            flags: None,
            joint: Joint::Events,
            version: 0,
            deferred: None,
            lost: BTreeSet::new(),
        })
    }

    /// The first visit whose pages are still needed: held, or not leased yet.
    pub(crate) fn oldest(&self) -> u64 {
        self.held.keys().next().copied().unwrap_or(self.leased.number)
    }

    /// A lease in any order, where that may still be the order of the cycle.
    pub(crate) fn follow(&mut self, unit: UnitId) {
        let expected = |sequence: &Sequence| sequence.unit(&self.plan) == Some(unit);
        self.followed = self.followed.filter(expected);
        if let Some(sequence) = &mut self.followed {
            sequence.advance(&self.plan);
        }
    }

    /// Bytes on the tape of the units that are held.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held.values().map(|place| self.plan.tape().spans[*place].bytes).sum()
    }

    /// The pages that held leases lie in.
    pub(crate) fn held_pages(&self) -> impl Iterator<Item = Range<u32>> {
        self.held_places.values().map(|place| self.plan.tape().spans[*place].touched.clone())
    }

    /// The pages that the visits of held leases touch, in order.
    pub(crate) fn held_visits(&self) -> impl Iterator<Item = (u64, Range<u32>)> {
        self.held.iter().map(|(visit, place)| (*visit, self.plan.tape().spans[*place].touched.clone()))
    }

    /// Visits that were to come never will, at least not with what was read ahead for them; what of their pages is there stays there.
    pub(crate) fn give_up(&mut self) {
        if let Some(pending) = self.pending.take() {
            pending.pieces.iter().for_each(|piece| self.script.forget(piece.pages.clone()));
            self.queued.number += 1;
        }
        self.ahead.clear();
        self.given_up = self.issued;
    }

    /// Copies to the ring were not made, or nobody waits for them: whoever needs what they bring copies it, behind them.
    pub(crate) fn forget_copies(&mut self) {
        self.script.forget_ring();
        self.given_up = self.issued;
    }

    /// What the ring was said to hold it does not: it is read again from the beginning of a turn on. All work that used it is done, but what the launches of held leases are still to read.
    pub(crate) fn forget_ring(&mut self) {
        self.give_up();
        self.script.forget_ring();
        for arrival in &mut self.arrivals {
            (arrival.issued, arrival.is_queued) = (0, !self.is_ordered);
        }
        let number = self.queued.number.max(self.leased.number);
        self.leased = Sequence::begin(&self.plan, self.leased.kind, number);
        self.queued = self.leased;
        self.followed = self.followed.map(|_| self.leased);
        // Launches of held leases are still to come, and to be waited for.
        (self.waited, self.covered) = (self.issued, self.oldest());
    }

    /// The next turn is of this kind, and not what was read ahead for.
    pub(crate) fn turn_to(&mut self, kind: usize) {
        self.give_up();
        self.queued = Sequence::begin(&self.plan, kind, self.queued.number.max(self.leased.number));
        self.leased = self.queued;
    }
}
