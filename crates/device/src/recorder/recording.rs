use std::borrow::Cow;

use crate::{Detail, Purpose, StreamId, StreamKind};

/// What was recorded: times are nanoseconds on one clock.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// Streams, in the order in which they were first seen.
    pub streams: Vec<(StreamId, StreamKind)>,
    /// What took time, in the order in which it was begun by the host. What never ended is not among them.
    pub spans: Vec<Span>,
    /// Which wait was for which point of another stream.
    pub dependencies: Vec<Dependency>,
    /// Bytes over time, in order; the first samples say what there was before.
    pub samples: Vec<Sample>,
    /// When the recording began and ended.
    pub begin_ns: u64,
    /// See `begin_ns`.
    pub end_ns: u64,
    /// How many spans and samples there was no room for.
    pub dropped: u64,
    /// How much was to be recorded.
    pub detail: Detail,
    /// What was queued, recorded one by one or not.
    pub counts: Counts,
}

/// What streams were given to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Parts of units of weights that were brought to the device.
    pub arrivals: u64,
    /// Bytes of them.
    pub arrived_bytes: u64,
}

/// Something that took time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The stream whose work it was; none: the host's.
    pub stream: Option<StreamId>,
    /// What kind of thing.
    pub what: What,
    /// Of the kernel, the unit, the phase.
    pub name: Cow<'static, str>,
    /// Bytes that were moved, that are leased, or that a kernel reads and writes by its [`Cost`](crate::Cost); 0 where that means nothing.
    pub bytes: u64,
    /// Floating-point operations of a kernel by its [`Cost`](crate::Cost); 0 for everything else.
    pub flops: u64,
    /// When the stream came to it.
    pub begin_ns: u64,
    /// When the stream went on.
    pub end_ns: u64,
}

impl Span {
    /// How long it took.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "times of a run are far below 2^52 ns")]
    pub const fn seconds(&self) -> f64 {
        self.end_ns.saturating_sub(self.begin_ns) as f64 * 1e-9
    }

    /// How much of it lies in a window of time, in nanoseconds.
    #[must_use]
    pub fn within(&self, begin_ns: u64, end_ns: u64) -> u64 {
        self.end_ns.min(end_ns).saturating_sub(self.begin_ns.max(begin_ns))
    }
}

/// What a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A phase of a run, from the host's point of view.
    Phase,
    /// A step of a loop, on the stream that computes it.
    Step,
    /// A lease of weights, on the stream that reads them: from the first launch that may to the end of the last.
    Lease,
    /// The copies that bring a part of a unit of weights.
    Arrival,
    /// A kernel.
    Kernel,
    /// A copy from host memory.
    CopyIn,
    /// A copy to host memory.
    CopyOut,
    /// A copy or a fill within device memory.
    Move,
    /// A stream that waited for another one's work: nothing of it ran meanwhile.
    Wait,
}

impl What {
    /// Whether it is one piece of a stream's work, and no other contains it.
    #[must_use]
    pub const fn is_work(self) -> bool {
        matches!(self, Self::Kernel | Self::CopyIn | Self::CopyOut | Self::Move)
    }
}

/// An event that was recorded on one stream and waited for on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// Where it was recorded.
    pub from: StreamId,
    /// When that stream came to it.
    pub at_ns: u64,
    /// The wait: its place in [`Recording::spans`].
    pub wait: usize,
}

/// A number of bytes that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    /// Device memory that the ledger granted.
    Granted(Purpose),
    /// Page-locked host memory that the host's ledger granted.
    Pinned(Purpose),
    /// Bytes that a pool has handed out.
    InUse,
    /// Bytes that a caching allocator has handed out, rounded up to its alignment.
    Allocated,
    /// Bytes that were given back to it while other streams may still use them.
    Pending,
    /// Physical memory that it holds.
    Reserved,
    /// What of that is mapped nowhere.
    Idle,
}

/// What a counter came to, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When, on the host.
    pub at_ns: u64,
    /// Which.
    pub counter: Counter,
    /// Bytes from then on.
    pub bytes: u64,
}
