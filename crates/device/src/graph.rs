use std::time::Duration;

use crate::{Backend, Device, Error, OutOfBudget, Purpose, Result, Stream};

/// What a flag takes of page-locked memory.
pub const FLAG_BYTES: u64 = 4;

/// How long no flag may change on a card while work waits for one, if nobody says otherwise. Between two flags lie the launches that read one unit of weights and an attention beside
/// them: 6 TFLOP for FLUX at 2048x2048, a fifth of a second on a card that does 30 TFLOP/s. Three hundred times that is room for a card that is shared or wakes up, and short enough that a run
/// of some minutes that nobody watches ends with the reason before it is cut off.
pub(crate) const CARD_FLAG_PATIENCE: Duration = Duration::from_secs(60);
/// The same on `Host`, which does as much in seconds, and on the emulator in minutes.
pub(crate) const HOST_FLAG_PATIENCE: Duration = Duration::from_secs(600);

/// A row of flags, all lowered at first: what joins graphs that run beside each other.
///
/// One stream [raises](Stream::raise) a flag when its work has come there, another one [takes](Stream::take) it: waits until it is raised, and lowers it. An event will
/// not do in work that is replayed, since what the replay before recorded cannot be told from what this one will record.
///
/// A flag carries one signal at a time: whoever raises it has to know that the last signal was taken. `Host` says so if it was not; a GPU would lose one.
///
/// ```
/// use lighterage_device::{Device, Host, HostConfig, Ledger, StreamKind};
/// # fn main() -> lighterage_device::Result<()> {
/// let device = Device::new(Host::new(HostConfig::default())?, Ledger::new(0), Ledger::new(1 << 20));
/// let (compute, copy) = (device.stream(StreamKind::Compute)?, device.stream(StreamKind::Copy)?);
/// let flags = device.flags(2)?;
/// // Each graph waits for the other one, and the graphs may be launched in any order, again and again.
/// let mut first = copy.capture(|| {
///     copy.raise(&flags, 0)?;
///     copy.take(&flags, 1)
/// })?;
/// let mut second = compute.capture(|| {
///     compute.take(&flags, 0)?;
///     compute.raise(&flags, 1)
/// })?;
/// for _ in 0..3 {
///     // SAFETY: nothing in them touches memory.
///     unsafe { compute.replay(&mut second) }?;
///     // SAFETY: as above.
///     unsafe { copy.replay(&mut first) }?;
/// }
/// compute.synchronize()?;
/// copy.synchronize()
/// # }
/// ```
#[derive(Debug)]
pub struct Flags<B: Backend> {
    raw: B::Flags,
    count: usize,
    device: Device<B>,
}

impl<B: Backend> Device<B> {
    /// So many flags, charged to the host ledger, [`FLAG_BYTES`] each, as long as they or work that uses them are there.
    ///
    /// # Errors
    /// [`Error::OutOfBudget`] of the host ledger, [`Error::NoReplay`] where there are none, or what the driver reports.
    pub fn flags(&self, count: usize) -> Result<Flags<B>> {
        self.take_deferred()?;
        // More than there are addresses is more than any ledger grants, also one without a limit.
        let bytes = (count as u64).checked_mul(FLAG_BYTES).filter(|bytes| i64::try_from(*bytes).is_ok());
        let bytes = bytes.ok_or_else(|| OutOfBudget {
            requested: u64::MAX,
            purpose: Purpose::Pinned,
            cap: self.host_ledger().limit_bytes(),
            granted: self.host_ledger().granted_by_purpose(),
        })?;
        let grant = self.host_ledger().grant(Purpose::Pinned, bytes)?;
        let raw = self.backend().flags(count, grant)?;
        Ok(Flags { raw, count, device: self.clone() })
    }
}

impl<B: Backend> Flags<B> {
    /// How many.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Lets all work go on that waits for one of them, now or later, as failed with these words: for whoever could not queue what would have raised it.
    pub fn give_up(&self, why: &str) {
        self.device.backend().give_up(&self.raw, why);
    }
}

impl<B: Backend> Stream<B> {
    /// Queues raising a flag, which is lowered by then.
    ///
    /// # Errors
    /// [`Error::OtherDevice`] if they are another device's, or what the driver reports.
    ///
    /// # Panics
    /// If there is no such flag.
    pub fn raise(&self, flags: &Flags<B>, index: usize) -> Result<()> {
        self.check_flags("raise", flags, index)?;
        self.note(self.device().backend().raise(self.raw(), &flags.raw, index))
    }

    /// Makes later work wait until the flag is raised, and lowers it.
    ///
    /// # Errors
    /// [`Error::OtherDevice`] if they are another device's, or what the driver reports.
    ///
    /// # Panics
    /// If there is no such flag.
    pub fn take(&self, flags: &Flags<B>, index: usize) -> Result<()> {
        self.check_flags("take", flags, index)?;
        self.note(self.device().backend().take(self.raw(), &flags.raw, index))
    }

    fn check_flags(&self, call: &'static str, flags: &Flags<B>, index: usize) -> Result<()> {
        assert!(index < flags.count, "flag {index} of {}", flags.count);
        if self.device().is(&flags.device) {
            return Ok(());
        }
        Err(Error::OtherDevice { call, what: "flags", used_on: self.id() })
    }

    /// Records what `work` queues on this stream, instead of doing it. On other streams nothing may be queued meanwhile that waits for it.
    ///
    /// Staged copies ([`Stream::upload`]), reads and waits of the host cannot be recorded: they are of the moment. Nor can events, but on `Cuda`, where they are for whoever
    /// waits outside of graphs; graphs are joined by [`Flags`]. Nor can replays. What other threads queue on this stream meanwhile is recorded too; recording begins when they do not wait for it.
    ///
    /// # Errors
    /// What `work` answers, or what the driver reports; the stream is then as it was before, as it is after a panic of `work`.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<B::Graph> {
        self.device().backend().begin_graph(self.raw())?;
        let mut recording = Recording { stream: self, is_open: true };
        let outcome = work();
        let graph = recording.end();
        outcome.and(graph)
    }

    /// Queues the recorded work.
    ///
    /// On `Cuda` a graph in which the library makes products has the library's one workspace to itself from its beginning to its end: such graphs on different streams, and products
    /// outside of graphs, are done one after the other, in the order in which they were queued. So of two such graphs the first may not wait, by a flag, for the second. A graph that waits for its turn longer than
    /// a card's flags are waited for (a minute) while the host waits for it, too, is taken for one that stands still.
    ///
    /// # Errors
    /// What the driver reports.
    ///
    /// # Safety
    /// - What was promised for each piece of the work when it was recorded holds for this replay too.
    pub unsafe fn replay(&self, graph: &mut B::Graph) -> Result<()> {
        // SAFETY: the caller's promise.
        self.note(unsafe { self.device().backend().replay(self.raw(), graph) })
    }
}

/// A stream that records. It ends in any case, also where the work panics, or the stream could not be used again.
struct Recording<'a, B: Backend> {
    stream: &'a Stream<B>,
    is_open: bool,
}

impl<B: Backend> Recording<'_, B> {
    fn end(&mut self) -> Result<B::Graph> {
        self.is_open = false;
        let graph = self.stream.device().backend().end_graph(self.stream.raw());
        self.stream.drop_kept();
        graph
    }
}

impl<B: Backend> Drop for Recording<'_, B> {
    fn drop(&mut self) {
        if self.is_open {
            drop(self.end());
        }
    }
}
