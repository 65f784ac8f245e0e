mod emulated;
mod faults;
mod flags;
mod lane;
mod link;
mod memory;
mod pages;
mod seeded;
mod ticket;
mod work;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use self::emulated::Emulation;
use self::emulated::Order;
use self::faults::Faults;
pub use self::flags::HostFlags;
use self::flags::{Board, Flag};
use self::lane::Lane;
use self::link::Link;
use self::memory::Memory;
use self::seeded::{POISON, Scheduler};
use self::ticket::{Outcome, Ticket};
use self::work::{Inside, Machine, Run, Source, Transfer, Work};
use crate::gate::{Gate, spoil};
use crate::graph::HOST_FLAG_PATIENCE;
use crate::space::Usage;
use crate::{Address, Backend, ChunkId, Error, Grant, Info, Isa, Kernel, Result, Stamp, StreamKind, Workers};

/// How a [`Host`] device is made.
#[derive(Clone, Copy, Debug)]
pub struct HostConfig {
    /// Physical bytes that it has.
    pub capacity_bytes: u64,
    /// Page: a power of two, at least the system's page.
    pub page_bytes: u64,
    /// Threads that share the work of a kernel; 0: one for each core.
    pub threads: usize,
    /// Instructions; none: the fastest that the machine has.
    pub isa: Option<Isa>,
    /// Bytes per second of copies between host and device, both ways together; none: as fast as they go.
    pub link_bytes_per_second: Option<f64>,
    /// Seeded mode: no threads (`threads` and the link's rate are ignored), the interleaving of the streams drawn from this seed, memory in flight poisoned.
    pub seed: Option<u64>,
    /// The n-th driver call, counted from 0, fails once, with an error of its kind.
    pub fail_call: Option<u64>,
    /// Runs the kernels' CUDA sources on the emulator instead of the host functions: the launches that `Cuda` would make, with the same
    /// parameters and tensor maps. Needs the feature `emu`. A kernel without an image is [`Error::NoImage`] then, and what the
    /// emulator finds wrong fails the stream.
    pub emulate: Option<Emulation>,
    /// How long a stream waits for a [flag](Backend::flags) before it has failed. The seeded mode knows at once that nobody raises it.
    pub flag_patience: Duration,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            capacity_bytes: 1 << 40,
            page_bytes: 64 << 10,
            threads: 0,
            isa: None,
            link_bytes_per_second: None,
            seed: None,
            fail_call: None,
            emulate: None,
            flag_patience: HOST_FLAG_PATIENCE,
        }
    }
}

/// A device made of this machine's memory and threads.
///
/// Device memory is a sparse file in memory, mapped where chunks are mapped, so aliases are real and the system counts it as shared memory
/// (`RssShmem`). A page exists from its first touch until its chunk is gone; the capacity is a number and not held against the machine's memory.
/// Each stream is a thread; kernels share the threads of one [`Workers`]. A kernel that panics fails its stream.
///
/// With [`HostConfig::seed`] there are no threads: see the crate's essay.
#[derive(Debug)]
pub struct Host {
    info: Info,
    memory: Arc<Memory>,
    machine: Arc<Machine>,
    /// The streams of the seeded mode.
    scheduler: Option<Arc<Scheduler>>,
    emulation: Option<Emulation>,
    faults: Faults,
    flag_patience: Duration,
}

/// A stream of a [`Host`]. Dropping it waits for its work.
#[derive(Debug)]
pub struct HostStream {
    engine: Engine,
    gate: Gate<Vec<Work>>,
    /// Which launches may still run when the next one begins.
    order: Arc<Order>,
}

/// Recorded work of a [`Host`].
#[derive(Debug)]
pub struct HostGraph(Vec<Work>);

#[derive(Debug)]
enum Engine {
    Thread(Lane),
    Seeded { scheduler: Arc<Scheduler>, stream: usize },
}

impl HostStream {
    fn new(engine: Engine) -> Self {
        Self { engine, gate: Gate::default(), order: Arc::default() }
    }

    /// Queues an operation, or records it.
    fn push(&self, work: Work) -> Result<()> {
        self.order.see(&work);
        let recorded = self.gate.record(|recording| record(recording, &work)).ok();
        recorded.unwrap_or_else(|| self.queue(work))
    }

    fn queue(&self, work: Work) -> Result<()> {
        match &self.engine {
            Engine::Thread(lane) => lane.push(work),
            Engine::Seeded { scheduler, stream } => scheduler.push(*stream, work),
        }
    }

    /// Queues what was recorded, as one operation.
    fn push_all(&self, graph: &HostGraph) -> Result<()> {
        let _outside = self.gate.outside("a graph")?;
        self.order.end();
        let work = graph.0.iter().filter_map(Work::again);
        match &self.engine {
            Engine::Thread(lane) => lane.push_all(work),
            Engine::Seeded { scheduler, stream } => scheduler.push_all(*stream, work),
        }
    }

    /// Waits for all that is queued.
    fn finish(&self) -> Outcome {
        match &self.engine {
            Engine::Thread(lane) => lane.synchronize(),
            Engine::Seeded { scheduler, stream } => scheduler.synchronize(*stream),
        }
    }
}

fn record(recording: &mut Result<Vec<Work>>, work: &Work) -> Result<()> {
    match (recording.as_mut(), work.again()) {
        (Err(error), _) => Err(error.clone()),
        (Ok(recorded), Some(work)) => {
            recorded.push(work);
            Ok(())
        }
        (Ok(_), None) => Err(spoil(recording, &format!("a {work:?}"))),
    }
}

impl Drop for HostStream {
    fn drop(&mut self) {
        if let Engine::Seeded { scheduler, stream } = &self.engine {
            // Failures were reported by the calls on the stream; a lane waits in its own drop.
            let _ = scheduler.synchronize(*stream);
        }
    }
}

/// An event of a [`Host`].
#[derive(Debug, Default)]
pub struct HostEvent {
    /// The point that it last recorded.
    last: Mutex<Option<Arc<Ticket>>>,
}

impl HostEvent {
    fn last(&self) -> Option<Arc<Ticket>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, ticket: Arc<Ticket>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(ticket);
    }
}

impl Host {
    /// A device as configured.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if the configuration makes no sense or the machine lacks what it asks for.
    pub fn new(config: HostConfig) -> Result<Self> {
        check(&config)?;
        let HostConfig {
            capacity_bytes,
            page_bytes,
            threads,
            isa,
            link_bytes_per_second,
            seed,
            fail_call,
            emulate,
            flag_patience,
        } = config;
        let workers = Workers::new(if seed.is_some() { 1 } else { threads }, isa)?;
        let how =
            seed.map_or_else(|| format!("{} threads", workers.threads()), |seed| format!("seed {seed}"));
        let what = emulate.map_or_else(|| workers.isa().to_string(), |emulation| emulation.name());
        let name = format!("host ({how}, {what})");
        let fresh = (seed.is_some() || emulate.is_some_and(|emulation| emulation.checks)).then_some(POISON);
        let isa = emulate.map_or_else(|| workers.isa().to_string(), |emulation| emulation.target.to_string());
        let info = Info { name, isa, page_bytes, capacity_bytes, has_bytes: true, product_library: None };
        let link = link_bytes_per_second.filter(|_| seed.is_none()).map(Link::new);
        let memory = Arc::new(Memory::new(page_bytes, capacity_bytes, fresh)?);
        let machine = Arc::new(Machine { workers, link });
        let scheduler =
            seed.map(|seed| Arc::new(Scheduler::new(seed, Arc::clone(&machine), Arc::clone(&memory))));
        let faults = Faults::new(fail_call);
        Ok(Self { info, memory, machine, scheduler, emulation: emulate, faults, flag_patience })
    }

    /// What exists now: zero when everything was given back.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.memory.usage()
    }

    /// How many driver calls there were: what [`HostConfig::fail_call`] counts.
    #[must_use]
    pub fn driver_calls(&self) -> u64 {
        self.faults.calls()
    }

    /// Counts a call that queues work, and queues it.
    fn queue(&self, call: &'static str, stream: &HostStream, work: Work) -> Result<()> {
        let turn = self.faults.enter(call);
        outside_kernels()?;
        turn.refuse_to_queue()?;
        stream.push(work)
    }
}

fn check(config: &HostConfig) -> Result<()> {
    let refuse = |reason| Err(Error::NoDevice { backend: "host", reason });
    let (page, system_page) = (config.page_bytes, rustix::param::page_size() as u64);
    if !page.is_power_of_two() || page < system_page {
        return refuse(format!("a page of {page} bytes is no power of two of at least {system_page} bytes"));
    }
    if let Some(emulation) = config.emulate {
        emulation.check()?;
    }
    match config.link_bytes_per_second {
        Some(rate) if !(rate.is_finite() && rate >= 1.0) => {
            refuse(format!("a link of {rate} bytes per second carries nothing"))
        }
        _ => Ok(()),
    }
}

/// Refuses calls from kernels, as CUDA does: one that waits for its own stream would never end.
fn outside_kernels() -> Result<()> {
    if Inside::is_here() {
        Err(Error::Stream("a kernel called the device that runs it".to_owned()))
    } else {
        Ok(())
    }
}

/// Copies from ordinary memory up to this size are staged, larger ones are waited for; CUDA does the same with the same figure
/// (driver API, "API synchronization behavior").
const STAGED_BYTES_MAX: u64 = 64 << 10;

impl Backend for Host {
    type Stream = HostStream;
    type Event = HostEvent;
    type Flags = HostFlags;
    type Graph = HostGraph;

    fn info(&self) -> &Info {
        &self.info
    }

    fn reserve(&self, bytes: u64) -> Result<Address> {
        self.faults.enter("reserve").refuse()?;
        self.memory.reserve(bytes)
    }

    unsafe fn unreserve(&self, address: Address, bytes: u64) -> Result<()> {
        let turn = self.faults.enter("unreserve");
        // SAFETY: the caller's promise.
        turn.after_release(unsafe { self.memory.unreserve(address, bytes) })
    }

    fn create(&self, bytes: u64) -> Result<ChunkId> {
        self.faults.enter("create").refuse_with(|| self.memory.out_of_memory(bytes))?;
        self.memory.create(bytes)
    }

    unsafe fn destroy(&self, chunk: ChunkId) -> Result<()> {
        let turn = self.faults.enter("destroy");
        turn.after_release(self.memory.destroy(chunk))
    }

    unsafe fn map(&self, address: Address, chunk: ChunkId, bytes: u64) -> Result<()> {
        self.faults.enter("map").refuse()?;
        // SAFETY: the caller's promise.
        unsafe { self.memory.map(address, chunk, bytes) }
    }

    unsafe fn set_access(&self, address: Address, bytes: u64) -> Result<()> {
        self.faults.enter("set_access").refuse()?;
        self.memory.set_access(address, bytes)
    }

    unsafe fn unmap(&self, address: Address, bytes: u64) -> Result<()> {
        let turn = self.faults.enter("unmap");
        // SAFETY: the caller's promise.
        turn.after_release(unsafe { self.memory.unmap(address, bytes) })
    }

    fn pin(&self, bytes: u64) -> Result<Address> {
        self.faults.enter("pin").refuse()?;
        self.memory.pin(bytes)
    }

    unsafe fn unpin(&self, address: Address, bytes: u64) -> Result<()> {
        let turn = self.faults.enter("unpin");
        // SAFETY: the caller's promise.
        turn.after_release(unsafe { self.memory.unpin(address, bytes) })
    }

    unsafe fn register(&self, first: Address, bytes: u64) -> Result<()> {
        self.faults.enter("register").refuse()?;
        self.memory.register(first, bytes)
    }

    unsafe fn unregister(&self, first: Address, bytes: u64) -> Result<()> {
        let turn = self.faults.enter("unregister");
        turn.after_release(self.memory.unregister(first, bytes))
    }

    fn stream(&self, kind: StreamKind) -> Result<HostStream> {
        self.faults.enter("stream").refuse()?;
        Ok(HostStream::new(match &self.scheduler {
            None => Engine::Thread(Lane::new(kind, Arc::clone(&self.machine), Arc::clone(&self.memory))?),
            Some(scheduler) => {
                Engine::Seeded { scheduler: Arc::clone(scheduler), stream: scheduler.stream() }
            }
        }))
    }

    fn event(&self) -> Result<HostEvent> {
        self.faults.enter("event").refuse()?;
        Ok(HostEvent::default())
    }

    unsafe fn copy_from_host(
        &self,
        stream: &HostStream,
        target: Address,
        source: *const u8,
        bytes: u64,
        staged: bool,
    ) -> Result<()> {
        self.memory.accessible("copy_from_host", target, bytes)?;
        let length = to_usize(bytes);
        let refused = || {
            let reason = "a staged copy cannot be part of a graph";
            Error::Range { call: "copy_from_host", address: target, bytes, reason }
        };
        // Until the source may change.
        let _outside = if staged { Some(stream.gate.try_outside().ok_or_else(refused)?) } else { None };
        // A seeded device never waits here: that would hide interleavings.
        let take = staged && (bytes <= STAGED_BYTES_MAX || self.scheduler.is_some());
        let source = if take {
            // SAFETY: valid for `bytes` bytes of reads, by the caller's promise.
            Source::Staged(unsafe { std::slice::from_raw_parts(source, length) }.into())
        } else {
            Source::At(Address(source.expose_provenance() as u64))
        };
        let copy = Transfer { target, source, bytes: length, over_link: true };
        self.queue("copy_from_host", stream, Work::Copy(copy))?;
        if staged && !take { stream.finish().map_err(Error::Stream) } else { Ok(()) }
    }

    unsafe fn copy_to_host(
        &self,
        stream: &HostStream,
        target: *mut u8,
        source: Address,
        bytes: u64,
    ) -> Result<bool> {
        let turn = self.faults.enter("copy_to_host");
        outside_kernels()?;
        self.memory.accessible("copy_to_host", source, bytes)?;
        // Until the target is the caller's again: a copy that a graph took would write there once more, and a wait that was refused would leave it under way.
        let _outside = stream.gate.outside("a read")?;
        let target = Address(target.expose_provenance() as u64);
        let copy = Transfer { target, source: Source::At(source), bytes: to_usize(bytes), over_link: true };
        stream.push(Work::Copy(copy))?;
        turn.after_wait(stream.finish()).map(|()| true)
    }

    unsafe fn copy(&self, stream: &HostStream, target: Address, source: Address, bytes: u64) -> Result<()> {
        self.memory.accessible("copy", target, bytes)?;
        self.memory.accessible("copy", source, bytes)?;
        let copy = Transfer { target, source: Source::At(source), bytes: to_usize(bytes), over_link: false };
        self.queue("copy", stream, Work::Copy(copy))
    }

    unsafe fn fill(&self, stream: &HostStream, target: Address, value: u8, bytes: u64) -> Result<()> {
        self.memory.accessible("fill", target, bytes)?;
        self.queue("fill", stream, Work::Fill { target, value, bytes: to_usize(bytes) })
    }

    unsafe fn launch<K: Kernel>(&self, stream: &HostStream, params: &K::Params) -> Result<()> {
        let run = match &self.emulation {
            Some(emulation) => {
                // SAFETY: the caller's promise, which holds until the kernel is done.
                unsafe { emulation.run::<K>(params, &stream.order, &self.memory, &self.info.name) }?
            }
            // SAFETY: as above.
            None => unsafe { on_host::<K>(*params) },
        };
        self.queue("launch", stream, Work::Kernel { name: K::NAME, run })
    }

    fn record(&self, stream: &HostStream, event: &HostEvent) -> Result<()> {
        let ticket = Arc::new(Ticket::default());
        self.queue("record", stream, Work::Record(Arc::clone(&ticket)))?;
        event.set(ticket);
        Ok(())
    }

    fn wait(&self, stream: &HostStream, event: &HostEvent) -> Result<()> {
        let _outside = stream.gate.outside("a wait for an event")?;
        // A point that was reached needs no waiting, but a failed one fails this stream too.
        let pending = event.last().filter(|ticket| ticket.poll() != Some(Ok(())));
        match pending {
            Some(ticket) => self.queue("wait", stream, Work::Wait(ticket)),
            None => self.faults.enter("wait").refuse_to_queue(),
        }
    }

    fn query(&self, event: &HostEvent) -> Result<bool> {
        self.faults.enter("query").refuse_to_queue()?;
        outside_kernels()?;
        let Some(ticket) = event.last() else { return Ok(true) };
        let outcome =
            self.scheduler.as_ref().map_or_else(|| ticket.poll(), |scheduler| scheduler.query(&ticket));
        outcome.map_or(Ok(false), |outcome| outcome.map(|()| true).map_err(Error::Stream))
    }

    fn synchronize_event(&self, event: &HostEvent) -> Result<()> {
        let turn = self.faults.enter("synchronize_event");
        outside_kernels()?;
        let wait = |ticket: Arc<Ticket>| match &self.scheduler {
            None => ticket.wait(),
            Some(scheduler) => scheduler.wait(&ticket),
        };
        turn.after_wait(event.last().map_or(Ok(()), wait))
    }

    fn synchronize(&self, stream: &HostStream) -> Result<()> {
        let turn = self.faults.enter("synchronize");
        outside_kernels()?;
        let _outside = stream.gate.outside("a wait of the host")?;
        turn.after_wait(stream.finish())
    }

    fn try_synchronize(&self, stream: &HostStream) -> Option<Result<()>> {
        let turn = self.faults.enter("synchronize");
        outside_kernels().ok()?;
        let _outside = stream.gate.try_outside()?;
        Some(turn.after_wait(stream.finish()))
    }

    fn can_replay(&self) -> bool {
        true
    }

    fn flags(&self, count: usize, grant: Grant) -> Result<HostFlags> {
        self.faults.enter("flags").refuse()?;
        Ok(HostFlags(Arc::new(Board::new(count, self.flag_patience, grant))))
    }

    fn raise(&self, stream: &HostStream, flags: &HostFlags, index: usize) -> Result<()> {
        self.queue("raise", stream, Work::Raise(Flag { board: Arc::clone(&flags.0), index }))
    }

    fn take(&self, stream: &HostStream, flags: &HostFlags, index: usize) -> Result<()> {
        self.queue("take", stream, Work::Take(Flag { board: Arc::clone(&flags.0), index }))
    }

    fn give_up(&self, flags: &HostFlags, why: &str) {
        flags.0.give_up(why);
    }

    fn begin_graph(&self, stream: &HostStream) -> Result<()> {
        let turn = self.faults.enter("begin_graph");
        outside_kernels()?;
        turn.refuse_to_queue()?;
        stream.gate.begin(|| {
            // Its first launch waits for whatever is before the graph.
            stream.order.end();
            Ok(Vec::new())
        })
    }

    fn end_graph(&self, stream: &HostStream) -> Result<HostGraph> {
        let turn = self.faults.enter("end_graph");
        let recorded = stream.gate.end(|recorded| recorded);
        let nothing = || Err(Error::Stream("a stream that was not recorded was to give a graph".to_owned()));
        let recorded = recorded.unwrap_or_else(nothing)?;
        turn.refuse()?;
        Ok(HostGraph(recorded))
    }

    unsafe fn replay(&self, stream: &HostStream, graph: &mut HostGraph) -> Result<()> {
        let turn = self.faults.enter("replay");
        outside_kernels()?;
        turn.refuse_to_queue()?;
        stream.push_all(graph)
    }

    fn prefers_pinned(&self) -> bool {
        false
    }

    /// No driver call: it is not counted among them. A drawn interleaving has no time.
    fn stamp(&self, stream: &HostStream, stamp: Stamp) -> Result<()> {
        match &stream.engine {
            // A graph has no times.
            Engine::Thread(lane) => {
                stream.gate.record(|_| Ok(())).unwrap_or_else(|_| lane.push(Work::Stamp(stamp)))
            }
            Engine::Seeded { .. } => Ok(()),
        }
    }
}

/// A kernel's host function as work.
///
/// # Safety
/// - [`Backend::launch`]'s conditions hold until the work is done.
unsafe fn on_host<K: Kernel>(params: K::Params) -> Run {
    Arc::new(move |workers: &Workers| {
        // SAFETY: the promise of who made the work.
        unsafe { K::host(&params, workers) };
        Ok(())
    })
}

fn to_usize(bytes: u64) -> usize {
    // A range that is mapped fits into the address space.
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
