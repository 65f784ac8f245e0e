use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use lighterage_device::{Address, Backend, Chunk, Device, Event, Reservation, Stream, StreamId, StreamKind};

use super::block::{NONE, State as BlockState};
use super::buffer::DeviceBuffer;
use super::core::{Core, Given, Request};
use super::magazine::magazine_of;
use super::magazines::Magazines;
use super::pressure::{self, Handlers};
use super::settings::{Magazines as When, Settings};
use super::tags::{Tag, Tags};
use super::times::Watch;
use crate::sync::{Apart, Guard, Lock};
use crate::{Error, Result};

/// The caching allocator of a device: see the crate's essay. Cloning shares it.
///
/// ```
/// use lighterage_allocator::{Allocator, Settings, Tag};
/// use lighterage_device::{Device, Ledger, Sim, SimConfig, StreamKind};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let device = Device::new(Sim::new(SimConfig::default())?, Ledger::new(1 << 30), Ledger::new(0));
/// let allocator = Allocator::new(&device, Settings::default())?;
/// let compute = allocator.on(&device.stream(StreamKind::Compute)?)?;
///
/// let hidden = compute.buffer::<f32>(1 << 20, allocator.tag("hidden"))?;
/// let address = hidden.address();
/// drop(hidden); // no wait, no driver call
/// assert_eq!(compute.buffer::<f32>(1 << 20, Tag::NONE)?.address(), address);
///
/// let handle = compute.allocate(100, Tag::NONE)?;
/// allocator.free(handle)?;
/// assert!(allocator.free(handle).unwrap_err().to_string().contains("stale handle"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Allocator<B: Backend> {
    pub(super) inner: Arc<Inner<B>>,
}

impl<B: Backend> Clone for Allocator<B> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

#[derive(Debug)]
pub(super) struct Inner<B: Backend> {
    /// Tells its handles from those of others.
    number: u32,
    pub(super) device: Device<B>,
    pub(super) settings: Settings,
    /// Whether there is anything beside the books to see to when something is handed out or taken back: a clock, or magazines. Those who share an
    /// allocator with nobody and want no times look at this one word.
    more: AtomicBool,
    /// For what hands out, and for what takes back.
    pub(super) watches: Option<Box<[Watch; 2]>>,
    pub(super) magazines: Magazines,
    heap: Apart<Lock<State<B>>>,
    /// Held by the one thread that maps, unmaps or records: the driver takes a lock of its own for these anyway.
    pub(super) growth: Lock<Events<B>>,
    pub(super) handlers: Mutex<Handlers>,
}

/// The books, and what the driver knows by handle.
#[derive(Debug)]
pub(super) struct State<B: Backend> {
    pub(super) core: Core,
    pub(super) reservations: Vec<Arc<Reservation<B>>>,
    pub(super) chunks: Vec<Option<Arc<Chunk<B>>>>,
    /// By owner; the first is nobody.
    pub(super) streams: Vec<Option<Stream<B>>>,
    pub(super) tags: Tags,
}

/// Events, recorded and spare.
#[derive(Debug)]
pub(super) struct Events<B: Backend> {
    /// By owner: up to which stamp work has been queued before the event.
    pub(super) recorded: Vec<VecDeque<(u64, Event<B>)>>,
    pub(super) spare: Vec<Event<B>>,
}

/// Memory that was handed out: a plain value, to be given back by [`Allocator::free`] once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    address: u64,
    bytes: u64,
    pub(super) generation: u64,
    pub(super) index: u32,
    /// Number of its allocator.
    allocator: u32,
}

/// Allocators made so far in this process.
static ALLOCATORS: AtomicU32 = AtomicU32::new(0);

impl Handle {
    /// First byte, aligned to [`ALIGNMENT_BYTES`](crate::ALIGNMENT_BYTES).
    #[must_use]
    pub const fn address(&self) -> Address {
        Address(self.address)
    }

    /// Bytes asked for.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// No two handles of an allocator share it. It counts up with the requests of an allocator on which threads keep no blocks of their own.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }
}

impl<B: Backend> Allocator<B> {
    /// An empty allocator: memory and addresses come with the first requests.
    ///
    /// # Errors
    /// None so far; reserving may fail later.
    pub fn new(device: &Device<B>, settings: Settings) -> Result<Self> {
        let core = Core::new(device.info().page_bytes, settings.trace_events);
        let state = State {
            core,
            reservations: Vec::new(),
            chunks: Vec::new(),
            streams: vec![None],
            tags: Tags::default(),
        };
        let events = Events { recorded: vec![VecDeque::new()], spare: Vec::new() };
        // A trace is one sequence, which only the lock of the books gives.
        let when = if settings.trace_events > 0 { When::Never } else { settings.magazines };
        Ok(Self {
            inner: Arc::new(Inner {
                number: ALLOCATORS.fetch_add(1, Ordering::Relaxed),
                more: AtomicBool::new(settings.times || when == When::Always),
                device: device.clone(),
                watches: settings.times.then(|| {
                    let clock = device.backend().clock();
                    Box::new([Watch::new(&clock), Watch::new(&clock)])
                }),
                magazines: Magazines::new(when),
                settings,
                heap: Apart::new(Lock::new_watched(state)),
                growth: Lock::new(events),
                handlers: Mutex::default(),
            }),
        })
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Device<B> {
        &self.inner.device
    }

    /// How it behaves.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// The allocator on a stream: all work on memory from there is ordered by this stream. The same stream gives the same again.
    ///
    /// # Errors
    /// [`Error::ForeignStream`] if the stream is of another device.
    pub fn on(&self, stream: &Stream<B>) -> Result<OnStream<B>> {
        if !std::ptr::eq(stream.device().backend(), self.device().backend()) {
            return Err(Error::ForeignStream);
        }
        // The order of both locks is that of the ladder.
        let mut events = self.inner.growth.lock();
        let mut state = self.inner.heap();
        let known =
            state.streams.iter().position(|known| known.as_ref().is_some_and(|s| s.id() == stream.id()));
        let owner = match known {
            Some(owner) => u16::try_from(owner).unwrap_or(u16::MAX),
            None => {
                state.streams.push(Some(stream.clone()));
                events.recorded.push(VecDeque::new());
                state.core.add_stream(stream.kind() == StreamKind::Copy)
            }
        };
        let inner = Arc::clone(&self.inner);
        Ok(OnStream { inner, for_buffers: Arc::new(self.clone()), stream: stream.clone(), owner })
    }

    /// A number for a name, to be given with requests: reports group by it.
    #[must_use]
    pub fn tag(&self, name: &'static str) -> Tag {
        self.inner.heap().tags.number(name)
    }

    /// Gives memory back: at once for later work of its stream, without waiting and without a driver call.
    ///
    /// # Errors
    /// [`Error::StaleHandle`] if it was given back before, [`Error::ForeignHandle`] if another allocator gave it out.
    #[inline]
    pub fn free(&self, handle: Handle) -> Result<()> {
        self.inner.free(handle)
    }

    /// Notes that another stream uses the memory too: after it was given back, nobody gets it before that stream's work queued until then is done.
    ///
    /// # Errors
    /// As [`free`](Allocator::free), and [`Error::ForeignStream`] if the stream was never given to [`on`](Allocator::on).
    pub fn used_on(&self, handle: Handle, stream: &Stream<B>) -> Result<()> {
        self.inner.own(handle)?;
        let mut state = self.inner.heap();
        let owner = state.owner_of(stream.id()).ok_or(Error::ForeignStream)?;
        let State { core, .. } = &mut *state;
        self.inner.magazines.return_used(core, handle.generation);
        let block = core.valid(handle.index, handle.generation).ok_or(stale(handle))?;
        if block.owner != owner {
            let list = core.uses.add(block.uses, owner);
            core.blocks[handle.index].uses = list;
        }
        Ok(())
    }

    /// The memory in which an address lies, for callers that have only a pointer; none if it was not handed out.
    #[must_use]
    pub fn find(&self, address: Address) -> Option<Handle> {
        let state = self.inner.whole();
        let core = &state.core;
        let mut held = core.blocks.iter().filter(|(_, block)| block.state == BlockState::Used);
        let found = held.find(|(_, block)| {
            let first = core.address(block);
            (first..first + block.bytes).contains(&address.0)
        });
        found.map(|(index, block)| Handle {
            address: core.address(block),
            bytes: block.requested(),
            generation: block.generation,
            index,
            allocator: self.inner.number,
        })
    }

    /// Checks every invariant of the books by walking all of them, for tests: what is wrong, or nothing.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn audit(&self) -> Result<(), String> {
        let events = self.inner.growth.lock();
        let state = self.inner.heap();
        drop(events);
        self.inner.magazines.audit(&state.core)?;
        super::audit::audit(&state.core)
    }
}

/// An [`Allocator`] as one stream sees it. Cloning shares it.
#[derive(Debug)]
pub struct OnStream<B: Backend> {
    pub(super) inner: Arc<Inner<B>>,
    /// What buffers share. Its count is this stream's: that of `inner` would go from processor to processor where threads make buffers on several streams.
    for_buffers: Arc<Allocator<B>>,
    stream: Stream<B>,
    pub(super) owner: u16,
}

impl<B: Backend> Clone for OnStream<B> {
    fn clone(&self) -> Self {
        let (inner, for_buffers) = (Arc::clone(&self.inner), Arc::clone(&self.for_buffers));
        Self { inner, for_buffers, stream: self.stream.clone(), owner: self.owner }
    }
}

impl<B: Backend> OnStream<B> {
    /// `bytes` of memory with undefined contents (0 counts as 1), aligned to [`ALIGNMENT_BYTES`](crate::ALIGNMENT_BYTES).
    ///
    /// # Errors
    /// [`Error::OutOfBudget`] with the numbers if no rung of the ladder found room, [`Error::Device`] if the driver fails otherwise,
    /// [`Error::Reentrant`] from within a pressure handler, [`Error::OffPlan`] while capturing. Nothing is handed out or left half mapped then.
    #[inline(always)]
    pub fn allocate(&self, bytes: u64, tag: Tag) -> Result<Handle> {
        self.inner.allocate(self.owner, bytes, tag)
    }

    /// A typed buffer that gives its memory back when it is dropped.
    ///
    /// # Errors
    /// As [`allocate`](OnStream::allocate).
    pub fn buffer<T: bytemuck::Pod>(&self, length: usize, tag: Tag) -> Result<DeviceBuffer<B, T>> {
        let bytes = (length as u64).saturating_mul(size_of::<T>() as u64);
        let handle = self.allocate(bytes, tag)?;
        Ok(DeviceBuffer::new(Arc::clone(&self.for_buffers), handle, self.stream.id(), length))
    }

    /// Gives memory back, as [`Allocator::free`].
    ///
    /// # Errors
    /// As [`Allocator::free`].
    #[inline]
    pub fn free(&self, handle: Handle) -> Result<()> {
        self.inner.free(handle)
    }

    /// The stream.
    #[must_use]
    pub const fn stream(&self) -> &Stream<B> {
        &self.stream
    }

    /// The allocator.
    #[must_use]
    pub fn allocator(&self) -> Allocator<B> {
        Allocator { inner: Arc::clone(&self.inner) }
    }

    /// The name of a tag.
    pub(super) fn tag_name(&self, tag: Tag) -> &'static str {
        self.inner.heap().tags.name(tag.0)
    }

    /// Adds what a step took from its plan, and what not.
    pub(super) fn count_plan(&self, hits: u64, misses: u64) {
        let events = &mut self.inner.heap().core.counts.events;
        events.plan_hits += hits;
        events.rungs[0] += hits;
        events.plan_misses += misses;
    }

    /// Its number in statistics and traces: 1 for the first stream registered.
    #[must_use]
    pub const fn number(&self) -> u16 {
        self.owner
    }
}

impl<B: Backend> Inner<B> {
    #[inline(always)]
    fn allocate(&self, owner: u16, bytes: u64, tag: Tag) -> Result<Handle> {
        let request = Request::new(bytes, owner, tag.0);
        let given = if self.more.load(Ordering::Relaxed) || pressure::is_handling() {
            self.allocate_with_more(&request, bytes)?
        } else {
            self.allocate_from_books(&request)?
        };
        // Made here alone, of what is in registers: a processor waits where it reads as one what was just written word by word.
        let Given { index, address, generation } = given;
        Ok(Handle { address, bytes: request.requested, generation, index, allocator: self.number })
    }

    /// As the books do it, and what else there is to see to. `asked` is what the caller said, which the request has as at least 1.
    #[inline(never)]
    fn allocate_with_more(&self, request: &Request, asked: u64) -> Result<Given> {
        if pressure::is_handling() {
            return Err(Error::Reentrant { requested: asked });
        }
        let allocate = || match self.magazines.take(request) {
            Some(given) => Ok(given),
            None => self.allocate_as_new(request),
        };
        match &self.watches {
            None => allocate(),
            Some(watches) => watches[0].time(allocate),
        }
    }

    /// What no magazine has. Apart, because whoever finds it in one would save registers for this: 31 ns a pair became 34.
    #[inline(never)]
    fn allocate_as_new(&self, request: &Request) -> Result<Given> {
        self.allocate_from_books(request)
    }

    #[inline(always)]
    fn allocate_from_books(&self, request: &Request) -> Result<Given> {
        let mut state = self.heap_for_request();
        let core = &mut state.core;
        if let Some(given) = core.take(request) {
            core.counts.events.rungs[1] += 1;
            let due = core.is_event_due(request.owner, self.settings.event_every);
            self.tell(&state);
            drop(state);
            if due {
                self.poll_if_idle();
            }
            return Ok(given);
        }
        drop(state);
        self.climb(request)
    }

    #[inline]
    fn free(&self, handle: Handle) -> Result<()> {
        self.own(handle)?;
        // Whoever has a handle of a magazine has it from a thread that saw this word set.
        if self.more.load(Ordering::Relaxed) {
            return self.free_with_more(handle);
        }
        self.free_to_books(handle, |_| false)
    }

    #[inline(never)]
    fn free_with_more(&self, handle: Handle) -> Result<()> {
        let free = || {
            let is_lent = magazine_of(handle.generation).is_some();
            if is_lent && self.magazines.give(handle.generation) {
                return Ok(());
            }
            self.free_to_books(handle, |core| {
                if is_lent {
                    self.magazines.return_used(core, handle.generation);
                }
                true
            })
        };
        match &self.watches {
            None => free(),
            Some(watches) => watches[1].time(free),
        }
    }

    /// `prepare` sees the books first, and says whether the block may be lent.
    #[inline]
    fn free_to_books(&self, handle: Handle, prepare: impl FnOnce(&mut Core) -> bool) -> Result<()> {
        let mut state = self.heap_for_request();
        let core = &mut state.core;
        let may_lend = prepare(core);
        let Some(block) = core.valid(handle.index, handle.generation) else {
            return Err(stale(handle));
        };
        if block.uses != NONE {
            core.give_later(handle.index);
        } else if !may_lend || !self.magazines.lend(core, handle.index) {
            core.give(handle.index);
        }
        self.tell(&state);
        Ok(())
    }

    /// Refuses the handles of others: their numbers would name memory here that someone else holds.
    #[inline]
    fn own(&self, handle: Handle) -> Result<()> {
        if handle.allocator == self.number { Ok(()) } else { Err(foreign(handle)) }
    }

    /// The books, locked for a request or what ends it.
    #[inline]
    fn heap_for_request(&self) -> Guard<'_, State<B>> {
        match self.heap.try_lock() {
            Some(state) => state,
            None => self.wait_for_heap(),
        }
    }

    #[cold]
    fn wait_for_heap(&self) -> Guard<'_, State<B>> {
        self.magazines.note_wait();
        if self.magazines.have_begun() {
            self.more.store(true, Ordering::Relaxed);
        }
        self.heap()
    }

    /// The books, locked, with all that was lent.
    pub(super) fn whole(&self) -> Guard<'_, State<B>> {
        let mut state = self.heap();
        self.magazines.recall(&mut state.core);
        state
    }

    /// The books, locked. No driver call is made meanwhile.
    #[inline]
    pub(super) fn heap(&self) -> Guard<'_, State<B>> {
        self.heap.lock()
    }
}

impl<B: Backend> Drop for Inner<B> {
    fn drop(&mut self) {
        // Work of any of them may still use the pages, which go with the last.
        let (streams, memory) = {
            let heap = self.heap();
            (heap.streams.iter().flatten().cloned().collect::<Vec<_>>(), heap.reservations.clone())
        };
        for stream in streams {
            stream.drop_when_done(memory.clone());
        }
    }
}

impl<B: Backend> State<B> {
    fn owner_of(&self, stream: StreamId) -> Option<u16> {
        let known = |known: &Option<Stream<B>>| known.as_ref().is_some_and(|known| known.id() == stream);
        self.streams.iter().position(known).and_then(|owner| u16::try_from(owner).ok())
    }
}

#[cold]
pub(super) fn stale(handle: Handle) -> Error {
    Error::StaleHandle { bytes: handle.bytes }
}

#[cold]
const fn foreign(handle: Handle) -> Error {
    Error::ForeignHandle { bytes: handle.bytes }
}
