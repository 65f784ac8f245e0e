mod lane;
mod link;
mod memory;
mod pages;
mod ticket;
mod work;

use std::sync::{Arc, Mutex, PoisonError};

use self::lane::Lane;
use self::link::Link;
use self::memory::Memory;
use self::ticket::{Ticket, to_result};
use self::work::{Copy, Inside, Machine, Source, Work};
use crate::{Address, Backend, ChunkId, Error, Grid, Info, Isa, Kernel, Result, StreamKind, Workers};

/// How a [`Host`] device is made.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Physical bytes that it has.
    pub capacity_bytes: u64,
    /// Page: a power of two, at least the system's page.
    pub page_bytes: u64,
    /// Worker threads; 0: one for each core.
    pub threads: usize,
    /// Instructions; none: the fastest that the machine has.
    pub isa: Option<Isa>,
    /// Bytes per second of copies between host and device; none: as fast as they go.
    pub link_bytes_per_second: Option<f64>,
    /// Seeded mode: one thread, the interleaving of the streams drawn from this seed, memory in flight poisoned.
    pub seed: Option<u64>,
    /// Seeded mode: the n-th driver call (counted from 0) fails.
    pub fail_call: Option<u64>,
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
        }
    }
}

/// A device made of this machine's memory and threads.
#[derive(Debug)]
pub struct Host {
    info: Info,
    memory: Arc<Memory>,
    machine: Arc<Machine>,
}

/// A stream of a [`Host`].
#[derive(Debug)]
pub struct HostStream {
    lane: Lane,
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
        let no_device = |reason: String| Error::NoDevice { backend: "host", reason };
        let system_page = rustix::param::page_size() as u64;
        if !config.page_bytes.is_power_of_two() || config.page_bytes < system_page {
            let page = config.page_bytes;
            return Err(no_device(format!(
                "a page of {page} bytes is no power of two of at least {system_page} bytes"
            )));
        }
        if let Some(rate) = config.link_bytes_per_second.filter(|rate| !(rate.is_finite() && *rate >= 1.0)) {
            return Err(no_device(format!("a link of {rate} bytes per second carries nothing")));
        }
        let workers = Workers::new(config.threads, config.isa)?;
        let info = Info {
            name: format!("host ({} threads, {})", workers.threads(), workers.isa()),
            page_bytes: config.page_bytes,
            capacity_bytes: config.capacity_bytes,
            has_bytes: true,
        };
        let memory = Arc::new(Memory::new(config.page_bytes, config.capacity_bytes, None)?);
        Ok(Self {
            info,
            memory,
            machine: Arc::new(Machine { workers, link: config.link_bytes_per_second.map(Link::new) }),
        })
    }

    fn push(&self, stream: &HostStream, work: Work) -> Result<()> {
        self.outside_kernels()?;
        stream.lane.push(work)
    }

    fn outside_kernels(&self) -> Result<()> {
        if Inside::is_here() {
            Err(Error::Stream("a kernel called the device that runs it".to_owned()))
        } else {
            Ok(())
        }
    }
}

/// Copies from ordinary memory up to this size are staged, larger ones are waited for; CUDA does the same with the same figure
/// (driver API, "API synchronization behavior").
const STAGED_BYTES_MAX: u64 = 64 << 10;

impl Backend for Host {
    type Stream = HostStream;
    type Event = HostEvent;

    fn info(&self) -> &Info {
        &self.info
    }

    fn reserve(&self, bytes: u64) -> Result<Address> {
        self.memory.reserve(bytes)
    }

    unsafe fn unreserve(&self, address: Address, bytes: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.memory.unreserve(address, bytes) }
    }

    fn create(&self, bytes: u64) -> Result<ChunkId> {
        self.memory.create(bytes)
    }

    unsafe fn destroy(&self, chunk: ChunkId) -> Result<()> {
        self.memory.destroy(chunk)
    }

    unsafe fn map(&self, address: Address, chunk: ChunkId, bytes: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.memory.map(address, chunk, bytes) }
    }

    unsafe fn set_access(&self, address: Address, bytes: u64) -> Result<()> {
        self.memory.set_access(address, bytes)
    }

    unsafe fn unmap(&self, address: Address, bytes: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.memory.unmap(address, bytes) }
    }

    fn pin(&self, bytes: u64) -> Result<Address> {
        self.memory.pin(bytes)
    }

    unsafe fn unpin(&self, address: Address, bytes: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.memory.unpin(address, bytes) }
    }

    fn stream(&self, kind: StreamKind) -> Result<HostStream> {
        Ok(HostStream { lane: Lane::new(kind, Arc::clone(&self.machine), Arc::clone(&self.memory))? })
    }

    fn event(&self) -> Result<HostEvent> {
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
        let take = staged && bytes <= STAGED_BYTES_MAX;
        let source = if take {
            // SAFETY: valid for `bytes` bytes of reads, by the caller's promise.
            Source::Staged(unsafe { std::slice::from_raw_parts(source, length) }.into())
        } else {
            Source::At(Address(source.expose_provenance() as u64))
        };
        self.push(stream, Work::Copy(Copy { target, source, bytes: length, over_link: true }))?;
        if staged && !take { self.synchronize(stream) } else { Ok(()) }
    }

    unsafe fn copy_to_host(
        &self,
        stream: &HostStream,
        target: *mut u8,
        source: Address,
        bytes: u64,
    ) -> Result<bool> {
        self.memory.accessible("copy_to_host", source, bytes)?;
        let target = Address(target.expose_provenance() as u64);
        let copy = Copy { target, source: Source::At(source), bytes: to_usize(bytes), over_link: true };
        self.push(stream, Work::Copy(copy))?;
        self.synchronize(stream)?;
        Ok(true)
    }

    unsafe fn copy(&self, stream: &HostStream, target: Address, source: Address, bytes: u64) -> Result<()> {
        self.memory.accessible("copy", target, bytes)?;
        self.memory.accessible("copy", source, bytes)?;
        let copy = Copy { target, source: Source::At(source), bytes: to_usize(bytes), over_link: false };
        self.push(stream, Work::Copy(copy))
    }

    unsafe fn fill(&self, stream: &HostStream, target: Address, value: u8, bytes: u64) -> Result<()> {
        self.memory.accessible("fill", target, bytes)?;
        self.push(stream, Work::Fill { target, value, bytes: to_usize(bytes) })
    }

    unsafe fn launch<K: Kernel>(&self, stream: &HostStream, _grid: Grid, params: &K::Params) -> Result<()> {
        let params = *params;
        let run = Box::new(move |workers: &Workers| {
            // SAFETY: the caller's promise, which holds until the kernel is done.
            unsafe { K::host(&params, workers) }
        });
        self.push(stream, Work::Kernel { name: K::NAME, run })
    }

    fn record(&self, stream: &HostStream, event: &HostEvent) -> Result<()> {
        let ticket = Arc::new(Ticket::default());
        self.push(stream, Work::Record(Arc::clone(&ticket)))?;
        event.set(ticket);
        Ok(())
    }

    fn wait(&self, stream: &HostStream, event: &HostEvent) -> Result<()> {
        match event.last() {
            Some(ticket) if ticket.poll() != Some(Ok(())) => self.push(stream, Work::Wait(ticket)),
            _ => Ok(()),
        }
    }

    fn query(&self, event: &HostEvent) -> Result<bool> {
        match event.last().map(|ticket| ticket.poll()) {
            None => Ok(true),
            Some(None) => Ok(false),
            Some(Some(outcome)) => to_result(outcome).map(|()| true),
        }
    }

    fn synchronize_event(&self, event: &HostEvent) -> Result<()> {
        self.outside_kernels()?;
        event.last().map_or(Ok(()), |ticket| to_result(ticket.wait()))
    }

    fn synchronize(&self, stream: &HostStream) -> Result<()> {
        self.outside_kernels()?;
        to_result(stream.lane.synchronize())
    }
}

fn to_usize(bytes: u64) -> usize {
    // A range that is mapped fits into the address space.
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
