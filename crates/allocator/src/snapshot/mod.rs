//! What an allocator holds and what happened last, at one instant: to be looked at with PyTorch's viewer, or by a program.

mod document;
mod json;
mod pickle;
mod sink;

use lighterage_device::Backend;

use crate::caching::{Action, Allocator, AllocatorStatistics, Event, Settings};
use crate::trace::{Row, RowAction, rmm_csv};
use json::Json;
use pickle::Pickle;

/// What an [`Allocator`] holds, and its latest events: see [`Allocator::snapshot`].
///
/// [`to_pickle`](Snapshot::to_pickle) is what PyTorch's tools read: drop the file on <https://pytorch.org/memory_viz>, or call `torch/cuda/_memory_viz.py`.
/// The ways in which it differs from a snapshot of PyTorch's: one device; a time is the number of an event; the stack of an allocation is one frame, whose name is
/// the tag; a segment is a run of mapped addresses, and as all streams share them its stream is 0; `lighterage_statistics` has the counters by name.
///
/// ```
/// use lighterage_allocator::{Allocator, Settings, Trace};
/// use lighterage_device::{Device, Ledger, Sim, SimConfig, StreamKind};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let device = Device::new(Sim::new(SimConfig::default())?, Ledger::new(1 << 30), Ledger::new(0));
/// let allocator = Allocator::new(&device, Settings { trace_events: 1000, ..Settings::default() })?;
/// let compute = allocator.on(&device.stream(StreamKind::Compute)?)?;
/// let hidden = compute.buffer::<f32>(1 << 20, allocator.tag("hidden"))?;
/// drop(compute.buffer::<f32>(100, allocator.tag("scale"))?);
///
/// let snapshot = allocator.snapshot();
/// assert_eq!(snapshot.segments.len(), 2, "a small and a large one");
/// let trace = Trace::from_snapshot(&snapshot.to_pickle())?; // to be replayed or planned
/// assert_eq!(trace.peak_bytes(), (4 << 20) + 400);
/// assert_eq!(Trace::from_rmm_csv(&snapshot.to_rmm_csv())?, trace);
/// assert!(snapshot.to_json().starts_with("{\"segments\":[{\"device\":0,"));
/// # drop(hidden);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Mapped addresses, run by run, in order.
    pub segments: Vec<Segment>,
    /// The latest events, the oldest first: all of them, if no more than [`Settings::trace_events`] happened.
    pub events: Vec<Event>,
    /// Number of the first event.
    pub first_event: u64,
    /// Names of tags by number.
    pub tags: Vec<&'static str>,
    /// How the allocator behaves.
    pub settings: Settings,
    /// Its counters.
    pub statistics: AllocatorStatistics,
}

/// A run of mapped addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First byte.
    pub address: u64,
    /// Whole pages, in bytes.
    pub bytes: u64,
    /// Whether it is for requests up to 1 MiB.
    pub is_small: bool,
    /// What it is cut into: without gaps.
    pub blocks: Vec<SegmentBlock>,
}

/// A part of a [`Segment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentBlock {
    /// First byte.
    pub address: u64,
    /// All of it.
    pub bytes: u64,
    /// As asked for; 0 if it is free.
    pub requested: u64,
    /// What it is.
    pub state: BlockState,
    /// Number of the tag.
    pub tag: u16,
}

/// What a [`SegmentBlock`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// Handed out.
    Allocated,
    /// Given back, but other streams may still use it.
    Pending,
    /// To be had.
    Free,
}

impl Snapshot {
    /// As PyTorch's memory snapshot, which its viewer reads.
    #[must_use]
    pub fn to_pickle(&self) -> Vec<u8> {
        let mut pickle = Pickle::default();
        document::write(self, &mut pickle);
        pickle.into_bytes()
    }

    /// The same as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut json = Json::default();
        document::write(self, &mut json);
        json.into_text()
    }

    /// The events as RMM's logging adaptor writes them, for its replay benchmark. What was alive before the first of them has only its end there.
    #[must_use]
    pub fn to_rmm_csv(&self) -> String {
        rmm_csv((self.first_event..).zip(&self.events).filter_map(|(number, event)| {
            let action = match event.action {
                Action::Alloc => RowAction::Allocate,
                Action::Free | Action::FreeRequested => RowAction::Free,
                Action::Oom => RowAction::Failure,
                Action::FreeCompleted | Action::Map | Action::Unmap | Action::Mark => return None,
            };
            let pointer = if action == RowAction::Failure { 0 } else { event.address };
            Some(Row {
                microseconds: number,
                action,
                pointer,
                bytes: event.bytes,
                stream: event.stream.into(),
            })
        }))
    }
}

impl<B: Backend> Allocator<B> {
    /// What it holds and its latest events, at one instant. It walks the books: not for every request.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.read_books(|core, tags, statistics| {
            let (first_event, events) = core.ring.read();
            Snapshot {
                segments: core.segments(),
                events,
                first_event,
                tags: tags.names().to_vec(),
                settings: self.settings().clone(),
                statistics,
            }
        })
    }
}
