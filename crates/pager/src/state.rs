use std::collections::BTreeMap;

use lighterage_device::{Address, Backend, Event, Stream, StreamKind};

use crate::loader::Loader;
use crate::memory::Memory;
use crate::plan::Plan;
use crate::ring::Ring;
use crate::units::{UnitId, Units};
use crate::{Error, Result};

/// What of a pager changes. Every field is changed after the calls that can fail, so that a call may be made again.
#[derive(Debug)]
pub(crate) struct State<B: Backend> {
    pub(crate) loader: Loader<B>,
    pub(crate) ring: Ring,
    pub(crate) residents: BTreeMap<UnitId, Resident<B>>,
    /// One for each streamed visit of the cycle: recorded when its copy is queued.
    pub(crate) arrived: Vec<Event<B>>,
    /// Recorded on the compute stream before copies to space that was released.
    pub(crate) freed: Event<B>,
    /// Whether something was released since `freed` was recorded.
    pub(crate) is_freed_stale: bool,
    /// Visits leased so far, in all cycles.
    pub(crate) visits: u64,
    /// Visits whose copies are queued, in all cycles; and the streamed ones among them.
    pub(crate) queued: u64,
    pub(crate) queued_streamed: u64,
    /// Bytes of residents that are queued but not leased yet.
    pub(crate) ahead_bytes: u64,
    pub(crate) trace: Vec<UnitId>,
    pub(crate) copied_bytes: u64,
    /// What a lease's drop could not report.
    pub(crate) deferred: Option<Error>,
}

#[derive(Debug)]
pub(crate) struct Resident<B: Backend> {
    pub(crate) address: Address,
    pub(crate) bytes: u64,
    pub(crate) arrived: Event<B>,
    pub(crate) load: Load,
}

/// How far a resident unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Not queued.
    Absent,
    /// Queued; the compute stream does not wait for it yet.
    Queued,
    /// The compute stream has waited for it.
    Present,
}

impl<B: Backend> State<B> {
    /// Nothing queued, nothing leased; makes the copy stream and all events.
    pub(crate) fn new(compute: &Stream<B>, units: &Units, plan: &Plan, memory: &Memory<B>) -> Result<Self> {
        let device = compute.device();
        let resident = |(id, offset): (UnitId, u64)| -> Result<_> {
            let (address, bytes) = (memory.resident(offset), units.bytes(id));
            Ok((id, Resident { address, bytes, arrived: device.event()?, load: Load::Absent }))
        };
        Ok(Self {
            loader: Loader::new(device.stream(StreamKind::Copy)?, units, plan)?,
            ring: Ring::new(plan),
            residents: plan.residents().map(resident).collect::<Result<_>>()?,
            arrived: plan.slots().list.iter().map(|_| device.event()).collect::<Result<_, _>>()?,
            freed: device.event()?,
            is_freed_stale: false,
            visits: 0,
            queued: 0,
            queued_streamed: 0,
            ahead_bytes: 0,
            trace: Vec::new(),
            copied_bytes: 0,
            deferred: None,
        })
    }
}
