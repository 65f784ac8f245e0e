use std::fmt;

use crate::{Clock, Grant, Kernel, Purpose, Result, Stamp};

/// An address in the device's address space; on `Host` a plain pointer value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u64);

impl Address {
    /// The address so many bytes further on.
    #[must_use]
    pub const fn offset(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A piece of physical memory, as the backend numbers it. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub u64);

/// What a stream is for: copies are latency class and never wait for compute by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// Kernels.
    Compute,
    /// Copies between host and device.
    Copy,
}

/// What does not change about a device.
#[derive(Clone, Debug)]
pub struct Info {
    /// Name to show, for instance `host (2 threads, avx512bf16)`.
    pub name: String,
    /// What kernels are made of, and so what bits depend on: an instruction set ([`Isa`](crate::Isa)) on `Host`, `sm_90a, 132 multiprocessors` on `Cuda` and where
    /// that is emulated; empty on `Sim`.
    pub isa: String,
    /// Sizes and offsets of chunks and maps are multiples of this: 64 KiB on `Host`, 2 MiB on `Cuda` and `Sim`.
    pub page_bytes: u64,
    /// Physical bytes that exist.
    pub capacity_bytes: u64,
    /// Whether device and pinned memory have bytes behind them; false only on `Sim`, whose reads give `None`.
    pub has_bytes: bool,
    /// The library, with its version, that multiplies what a table gives to it: its bits are not ours.
    pub product_library: Option<String>,
}

/// What a device that works by a model reckons for everything that was queued so far, on all streams.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Modelled {
    /// Seconds of kernels, and of copies and fills on the device, one after the other.
    pub compute_seconds: f64,
    /// Seconds that the calls took the host.
    pub host_seconds: f64,
}

/// The driver calls of one device: everything above is written once against this trait, statically dispatched.
///
/// It is the raw layer: nothing is counted, cached, tracked or dropped here. Use the shells ([`Device`](crate::Device),
/// [`Chunk`](crate::Chunk), [`Reservation`](crate::Reservation), [`Stream`](crate::Stream), [`Event`](crate::Event)),
/// which own what they make and charge the ledger first.
///
/// Calls on streams are asynchronous: they return before the work is done, and work on one stream happens in order.
/// Errors of asynchronous work are reported by every later call on the same stream, as [`Error::Stream`], and pass on to streams and callers that
/// wait for an event recorded behind them.
///
/// # What holds after an error
/// - A call that takes something (`reserve`, `create`, `map`, `set_access`, `pin`, `register`, `stream`, `event`) has taken nothing.
/// - A call that queues something has queued nothing.
/// - A call that waits has waited: afterwards no work of the stream is pending, done or not.
/// - A call that gives something back may have done so: asking again is harmless, and answers [`Error::Range`] if it has.
/// - A kernel may not call the device; such calls answer [`Error::Stream`].
///
/// [`Error::Stream`]: crate::Error::Stream
/// [`Error::Range`]: crate::Error::Range
pub trait Backend: fmt::Debug + Send + Sync + Sized + 'static {
    /// An ordered queue of work.
    type Stream: fmt::Debug + Send + Sync;
    /// A point in a stream's work. An event that was never recorded counts as complete.
    type Event: fmt::Debug + Send + Sync;
    /// A row of flags: each is raised by one stream and taken by another.
    type Flags: fmt::Debug + Send + Sync;
    /// Work that was recorded instead of done.
    type Graph: fmt::Debug + Send;

    /// Constants of the device.
    fn info(&self) -> &Info;

    /// Bytes of the device that the driver has taken for itself, by purpose: what a budget has to be charged with before anything else.
    fn taken(&self) -> Vec<(Purpose, u64)> {
        Vec::new()
    }

    /// Bytes of the device that are in use now, as its driver counts them: this program's and everybody else's. None where there is nobody who counts.
    fn used_bytes(&self) -> Option<u64> {
        None
    }

    /// Reserves `bytes` of address space, without memory; `bytes` is a multiple of the page.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) if `bytes` is no multiple of the page, [`Error::Driver`](crate::Error::Driver) if there are no addresses left.
    fn reserve(&self, bytes: u64) -> Result<Address>;

    /// Gives a reservation back.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) if this is no reservation or something is mapped in it, else [`Error::Driver`](crate::Error::Driver).
    ///
    /// # Safety
    /// - `address` and `bytes` are those of one [`reserve`](Backend::reserve), nothing in it is mapped, and no work that uses it is pending.
    unsafe fn unreserve(&self, address: Address, bytes: u64) -> Result<()>;

    /// Creates physical memory; `bytes` is a multiple of the page.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory) above the capacity, [`Error::Range`](crate::Error::Range) if `bytes` is no multiple of the page.
    fn create(&self, bytes: u64) -> Result<ChunkId>;

    /// Destroys physical memory. It may still be mapped: it then lives until the last unmap, as on CUDA.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) if there is no such chunk, else [`Error::Driver`](crate::Error::Driver).
    ///
    /// # Safety
    /// - No one destroys `chunk` a second time.
    unsafe fn destroy(&self, chunk: ChunkId) -> Result<()>;

    /// Maps a whole chunk at `address`. The same chunk may be mapped at several places: they alias.
    /// The range cannot be accessed before [`set_access`](Backend::set_access).
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) if the place is not free or not reserved or the size is not the chunk's, [`Error::Driver`](crate::Error::Driver) if the system has no map left.
    ///
    /// # Safety
    /// - `address` to `address + bytes` lies in one reservation and nothing is mapped there; `bytes` is the chunk's size.
    unsafe fn map(&self, address: Address, chunk: ChunkId, bytes: u64) -> Result<()>;

    /// Makes a range of whole maps readable and writable: one call for many maps.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) if the range does not consist of whole maps, else [`Error::Driver`](crate::Error::Driver).
    ///
    /// # Safety
    /// - The range lies in one reservation and is wholly mapped.
    unsafe fn set_access(&self, address: Address, bytes: u64) -> Result<()>;

    /// Unmaps a range of whole maps.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) if the range does not consist of whole maps, else [`Error::Driver`](crate::Error::Driver).
    ///
    /// # Safety
    /// - The range lies in one reservation, consists of whole maps, and no pending work uses it.
    unsafe fn unmap(&self, address: Address, bytes: u64) -> Result<()>;

    /// Page-locked host memory of exactly `bytes` bytes (on `Sim` an address without bytes), zeroed.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver) if there is no memory to pin.
    fn pin(&self, bytes: u64) -> Result<Address>;

    /// Gives pinned memory back.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) if this is no pinned memory, else [`Error::Driver`](crate::Error::Driver).
    ///
    /// # Safety
    /// - `address` and `bytes` are those of one [`pin`](Backend::pin), and no pending work uses it.
    unsafe fn unpin(&self, address: Address, bytes: u64) -> Result<()>;

    /// Page-locks memory of this process where it lies, so that copies from it run at the link's rate. The driver is asked for reading only, where it can.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) if some of it is registered already, [`Error::Driver`](crate::Error::Driver) where it is refused: some systems do
    /// so for a file that is mapped read-only.
    ///
    /// # Safety
    /// - `first` to `first + bytes` is valid for reads, and stays mapped until [`unregister`](Backend::unregister).
    unsafe fn register(&self, first: Address, bytes: u64) -> Result<()>;

    /// Gives up what [`register`](Backend::register) did.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) if this is not registered, else [`Error::Driver`](crate::Error::Driver).
    ///
    /// # Safety
    /// - `first` and `bytes` are those of one [`register`](Backend::register), and no pending work uses the memory.
    unsafe fn unregister(&self, first: Address, bytes: u64) -> Result<()>;

    /// A new stream.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver) if there is no further stream.
    fn stream(&self, kind: StreamKind) -> Result<Self::Stream>;

    /// A new event, not recorded.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver) if there is no further event.
    fn event(&self) -> Result<Self::Event>;

    /// Queues a copy from host memory. With `staged` the source may change as soon as the call returns.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) if the target is not mapped with access; [`Error::Stream`](crate::Error::Stream) if earlier work failed.
    ///
    /// # Safety
    /// - `target` to `target + bytes` is mapped, and stays so until the copy is done.
    /// - `source` is valid for `bytes` bytes of reads until the copy is done (with `staged`: until the call returns).
    /// - No work that is not ordered before or after this copy touches either range.
    unsafe fn copy_from_host(
        &self,
        stream: &Self::Stream,
        target: Address,
        source: *const u8,
        bytes: u64,
        staged: bool,
    ) -> Result<()>;

    /// Copies to host memory and waits for it. Returns `false`, and writes nothing, where memory has no bytes (`Sim`).
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) if the source is not mapped with access; [`Error::Stream`](crate::Error::Stream) if earlier work failed.
    ///
    /// # Safety
    /// - `source` to `source + bytes` is mapped; `target` is valid for `bytes` bytes of writes.
    /// - No work that is not ordered before this copy writes the source.
    unsafe fn copy_to_host(
        &self,
        stream: &Self::Stream,
        target: *mut u8,
        source: Address,
        bytes: u64,
    ) -> Result<bool>;

    /// Queues a copy on the device. The ranges do not overlap.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) if a range is not mapped with access; [`Error::Stream`](crate::Error::Stream) if earlier work failed.
    ///
    /// # Safety
    /// - Both ranges are mapped and stay so until the copy is done, and no unordered work touches them.
    unsafe fn copy(&self, stream: &Self::Stream, target: Address, source: Address, bytes: u64) -> Result<()>;

    /// Queues setting every byte of a range.
    ///
    /// # Errors
    /// [`Error::Range`](crate::Error::Range) if the range is not mapped with access; [`Error::Stream`](crate::Error::Stream) if earlier work failed.
    ///
    /// # Safety
    /// - The range is mapped and stays so until the work is done, and no unordered work touches it.
    unsafe fn fill(&self, stream: &Self::Stream, target: Address, value: u8, bytes: u64) -> Result<()>;

    /// Queues a kernel.
    ///
    /// # Errors
    /// [`Error::NoImage`](crate::Error::NoImage) if the device has no such kernel; [`Error::Stream`](crate::Error::Stream) if earlier work failed.
    ///
    /// # Safety
    /// - Every address in `params` is mapped as far as the kernel reaches, stays so until it is done, and no unordered
    ///   work touches what it writes or writes what it reads.
    /// - `params` keeps the kernel's own rules (its header and `ops`' check).
    unsafe fn launch<K: Kernel>(&self, stream: &Self::Stream, params: &K::Params) -> Result<()>;

    /// Queues the event on the stream: it is complete when all work queued before it is.
    ///
    /// # Errors
    /// [`Error::Stream`](crate::Error::Stream) if earlier work failed.
    fn record(&self, stream: &Self::Stream, event: &Self::Event) -> Result<()>;

    /// Makes later work of the stream wait for what the event last recorded, without stopping the caller.
    ///
    /// # Errors
    /// [`Error::Stream`](crate::Error::Stream) if earlier work failed.
    fn wait(&self, stream: &Self::Stream, event: &Self::Event) -> Result<()>;

    /// Whether what the event last recorded is complete.
    ///
    /// # Errors
    /// [`Error::Stream`](crate::Error::Stream) if the work before the event failed.
    fn query(&self, event: &Self::Event) -> Result<bool>;

    /// Waits on the host for what the event last recorded.
    ///
    /// # Errors
    /// [`Error::Stream`](crate::Error::Stream) if the work before the event failed.
    fn synchronize_event(&self, event: &Self::Event) -> Result<()>;

    /// Waits on the host for all work of the stream, and reports its first error.
    ///
    /// # Errors
    /// [`Error::Stream`](crate::Error::Stream) with the first failure.
    fn synchronize(&self, stream: &Self::Stream) -> Result<()>;

    /// As [`synchronize`](Backend::synchronize), unless the stream records: then nobody waits, nothing is answered, and the recording goes on. For whoever frees what work uses.
    fn try_synchronize(&self, stream: &Self::Stream) -> Option<Result<()>>;

    /// Whether work can be [recorded](Backend::begin_graph) and streams order each other by [flags](Backend::flags).
    fn can_replay(&self) -> bool {
        false
    }

    /// So many flags, all lowered: words of page-locked memory, four bytes each.
    ///
    /// `grant` is what they take of the host's memory. It goes back with the words, which live as long as queued work or a graph uses them.
    ///
    /// Flags do what events do where the streams' work is in graphs that are replayed again and again: an event that was recorded stays recorded, so whoever waits may find
    /// the record of the replay before. A flag that was [taken](Backend::take) is lowered again.
    ///
    /// # Errors
    /// [`Error::NoReplay`](crate::Error::NoReplay) where there are none, [`Error::Driver`](crate::Error::Driver) if there is no memory for them.
    fn flags(&self, _count: usize, _grant: Grant) -> Result<Self::Flags> {
        self.no_replay()
    }

    /// Queues raising a flag, when all work before it is done. The flag is lowered then: whoever raises knows that the last one was taken.
    ///
    /// # Errors
    /// [`Error::Stream`](crate::Error::Stream) if earlier work failed.
    fn raise(&self, _stream: &Self::Stream, _flags: &Self::Flags, _index: usize) -> Result<()> {
        self.no_replay()
    }

    /// Makes later work of the stream wait until the flag is raised, and lowers it.
    ///
    /// # Errors
    /// [`Error::Stream`](crate::Error::Stream) if earlier work failed. A flag that nobody raises fails the stream in the end.
    fn take(&self, _stream: &Self::Stream, _flags: &Self::Flags, _index: usize) -> Result<()> {
        self.no_replay()
    }

    /// Gives the flags up: work that waits for one goes on, as failed with these words. For whoever could not queue what would have raised them.
    fn give_up(&self, _flags: &Self::Flags, _why: &str) {}

    /// From now on work that is queued on this stream is recorded instead of done: copies from page-locked memory and on the device, fills, launches and flags. What
    /// refers to the moment, staged copies, reads and waits of the host, is refused; the recording is spoilt then, or goes on without it.
    ///
    /// # Errors
    /// [`Error::NoReplay`](crate::Error::NoReplay) where that cannot be done; what the driver reports.
    fn begin_graph(&self, _stream: &Self::Stream) -> Result<()> {
        self.no_replay()
    }

    /// Ends the recording, also one that was spoilt.
    ///
    /// # Errors
    /// What spoilt it; [`Error::Driver`](crate::Error::Driver) if there is no memory for the graph.
    fn end_graph(&self, _stream: &Self::Stream) -> Result<Self::Graph> {
        self.no_replay()
    }

    /// Queues all work of a graph, by one call.
    ///
    /// # Errors
    /// [`Error::Stream`](crate::Error::Stream) if earlier work failed.
    ///
    /// # Safety
    /// - What was promised for each piece of the work when it was recorded holds for this replay too.
    unsafe fn replay(&self, _stream: &Self::Stream, _graph: &mut Self::Graph) -> Result<()> {
        self.no_replay()
    }

    /// The answer where nothing can be recorded.
    #[doc(hidden)]
    fn no_replay<T>(&self) -> Result<T> {
        Err(crate::Error::NoReplay { device: self.info().name.clone() })
    }

    /// Whether copies from page-locked memory are faster than from any other.
    fn prefers_pinned(&self) -> bool {
        true
    }

    /// The host has moved so many bytes from files to memory that copies read. Only where the device works by a model does that need to be said: there it takes the
    /// host's time.
    fn filled(&self, _bytes: u64) {}

    /// Seconds that the work queued so far should take, where the device works by a model; else none.
    fn modelled(&self) -> Option<Modelled> {
        None
    }

    /// What a launch is called in a recording: the kernel's name, unless a library does its work.
    fn name_of<K: Kernel>(&self, params: &K::Params) -> &'static str {
        let _ = params;
        K::NAME
    }

    /// Whether stamps are timed by the device itself, so that what the host does meanwhile does not show.
    fn has_timed_events(&self) -> bool {
        false
    }

    /// The clock that recordings of this device are made by.
    fn clock(&self) -> Clock {
        Clock::real()
    }

    /// Queues a moment on the stream: the backend says when the stream came to it. Nothing is ordered by it and nothing waits for it; where streams have no
    /// time of their own it is dropped.
    ///
    /// # Errors
    /// [`Error::Stream`](crate::Error::Stream) if earlier work failed.
    fn stamp(&self, _stream: &Self::Stream, _stamp: Stamp) -> Result<()> {
        Ok(())
    }

    /// Reports the moments that streams have come to and that nobody was told of yet; waits for those that are still to come.
    fn settle(&self) {}
}
