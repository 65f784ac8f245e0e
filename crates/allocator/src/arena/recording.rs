use crate::trace::{Op, Trace};

/// What was asked of a pool, in order: see [`Pool::record`](crate::Pool::record).
///
/// ```
/// use lighterage_allocator::{Config, Pool};
/// use lighterage_device::{Device, Ledger, Purpose, Sim, SimConfig, StreamKind};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = |cap| -> Result<_, Box<dyn std::error::Error>> {
///     let device = Device::new(Sim::new(SimConfig::default())?, Ledger::new(cap), Ledger::new(0));
///     let stream = device.stream(StreamKind::Compute)?;
///     Ok(Pool::new(&stream, Config { purpose: Purpose::Activations, reserve_bytes: 1 << 40 })?)
/// };
/// let work = |pool: &Pool<Sim>| -> lighterage_allocator::Result<u64> {
///     let first = pool.allocate(8 << 20, "first")?;
///     let second = pool.allocate(4 << 20, "second")?;
///     drop(first);
///     let third = pool.allocate(12 << 20, "third")?;
///     Ok(second.offset() + third.offset())
/// };
/// let dry = pool(u64::MAX)?;
/// dry.record();
/// work(&dry)?;
/// let placements = dry.recorded().place(2 << 20);
/// // Best fit would have put the third behind the second, and the whole been 24 MiB.
/// assert_eq!(placements[0].bytes(), 16 << 20);
/// let tight = pool(16 << 20)?;
/// tight.follow(&placements[0]);
/// work(&tight)?;
/// assert_eq!(tight.statistics().unplanned, 0);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    ops: Vec<Op>,
    /// How many ops came before each part.
    parts: Vec<u32>,
    /// How many ops came before each mark, and what it is called.
    marks: Vec<(u32, &'static str)>,
}

impl Recording {
    /// All of it as one sequence.
    #[must_use]
    pub fn trace(&self) -> Trace {
        Trace::new(self.ops.iter().copied())
    }

    pub(super) fn parts(&self) -> &[u32] {
        &self.parts
    }

    pub(super) fn marks(&self) -> &[(u32, &'static str)] {
        &self.marks
    }
}

/// Makes a recording.
#[derive(Debug)]
pub(super) struct Recorder {
    recording: Recording,
    /// Requests of the pool before the first that is recorded.
    before: u64,
}

impl Recorder {
    pub(super) fn new(before: u64) -> Self {
        Self { recording: Recording::default(), before }
    }

    pub(super) fn begin_part(&mut self) {
        let at = self.at();
        self.recording.parts.push(at);
    }

    pub(super) fn mark(&mut self, label: &'static str) {
        let at = self.at();
        self.recording.marks.push((at, label));
    }

    /// Notes the pool's request of that number.
    pub(super) fn take(&mut self, request: u64, bytes: u64) {
        if let Some(id) = self.id(request) {
            self.recording.ops.push(Op::Alloc { id, stream: 0, bytes });
        }
    }

    /// Notes that its memory was given back.
    pub(super) fn give(&mut self, request: u64) {
        if let Some(id) = self.id(request) {
            self.recording.ops.push(Op::Free { id });
        }
    }

    pub(super) fn finish(self) -> Recording {
        self.recording
    }

    fn id(&self, request: u64) -> Option<u32> {
        u32::try_from(request.checked_sub(self.before)?).ok()
    }

    fn at(&self) -> u32 {
        u32::try_from(self.recording.ops.len()).unwrap_or(u32::MAX)
    }
}
