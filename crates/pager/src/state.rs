use std::collections::{BTreeMap, VecDeque};

use lighterage_device::{Backend, Event, Stream, StreamKind};

use crate::feed::Feed;
use crate::plan::{Piece, Plan, Script};
use crate::sequence::Sequence;
use crate::trace::Trace;
use crate::units::Units;
use crate::{Error, Result};

/// What of a pager changes. Every field is changed after the calls that can fail, so that a call may be made again.
#[derive(Debug)]
pub(crate) struct State<B: Backend> {
    pub(crate) feed: Feed<B>,
    pub(crate) script: Script,
    /// The visit whose copies are being queued.
    pub(crate) pending: Option<Pending>,
    /// Visits whose copies are queued, and the one after them.
    pub(crate) queued: Sequence,
    /// Visits leased so far, and the one that is next.
    pub(crate) leased: Sequence,
    /// Those of them that are not released yet, with their bytes.
    pub(crate) held: BTreeMap<u64, u64>,
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
    /// What a lease's drop could not report.
    pub(crate) deferred: Option<Error>,
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
    pub(crate) fn new(compute: &Stream<B>, units: &Units, plan: &Plan) -> Result<Self> {
        let device = compute.device();
        let visits = plan.cycles().iter().map(|cycle| cycle.visits.len()).max().unwrap_or(0);
        let arrival = |_| Ok(Arrival { event: device.event()?, issued: 0, is_queued: false });
        let slots = 0..visits.max(plan.tape().spans.len());
        Ok(Self {
            feed: Feed::new(device.stream(StreamKind::Copy)?, units, plan)?,
            script: plan.script(),
            pending: None,
            queued: Sequence::default(),
            leased: Sequence::default(),
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
            deferred: None,
        })
    }

    /// The first visit whose pages are still needed: held, or not leased yet.
    pub(crate) fn oldest(&self) -> u64 {
        self.held.keys().next().copied().unwrap_or(self.leased.number)
    }

    /// The next turn is of this kind, and not what was read ahead for. Visits that were to come never will; what of their pages is there stays there.
    pub(crate) fn turn_to(&mut self, kind: usize) {
        if let Some(pending) = self.pending.take() {
            pending.pieces.iter().for_each(|piece| self.script.forget(piece.pages.clone()));
            self.queued.number += 1;
        }
        self.ahead.clear();
        self.given_up = self.issued;
        self.queued = Sequence { number: self.queued.number.max(self.leased.number), kind, position: 0 };
        self.leased = self.queued;
    }
}
