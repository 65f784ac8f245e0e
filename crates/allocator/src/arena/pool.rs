use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lighterage_device::{Address, Backend, Counter, Device, Error as DeviceError, Purpose, Stream, StreamId};

use super::heap::Heap;
use super::pages::Pages;
use super::placement::Placement;
use super::recording::{Recorder, Recording};
use crate::caching::{Handlers, Presses, ask, is_handling, register};
use crate::error::top_tags;
use crate::{Error, Need, OutOfMemory, PressureHandler, Registration, Result, Urgency};

/// Addresses and sizes of buffers are multiples of this: what the widest loads and tensor maps ask for, with room to spare.
pub const ALIGNMENT_BYTES: u64 = 512;

/// How a [`Pool`] is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// What its chunks are charged as.
    pub purpose: Purpose,
    /// Address space reserved once: the most that can ever be live. Rounded up to whole pages, at least one.
    pub reserve_bytes: u64,
}

/// Counters in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes handed out now, rounded to the alignment.
    pub allocated_bytes: u64,
    /// The most ever handed out at once since the last reset.
    pub allocated_peak_bytes: u64,
    /// Physical bytes held now.
    pub reserved_bytes: u64,
    /// The most physical bytes held since the last reset.
    pub reserved_peak_bytes: u64,
    /// Allocations made.
    pub allocations: u64,
    /// Those among them that a [`Placement`] had a place for.
    pub planned: u64,
    /// Those made while a placement was followed that it had no place for.
    pub unplanned: u64,
}

/// Hands out device memory for one stream, in stream order. Cloning shares it.
///
/// Memory of a dropped [`Buffer`] is handed out again at once: later work of the same stream comes after all work that used the
/// buffer, so nothing waits, and once the pages are mapped neither `allocate` nor drop calls the driver.
///
/// By itself it places by best fit. A run that is known beforehand takes less: what one run asks for is [recorded](Self::record), places are found for all of it
/// ([`Recording::place`]), and the next run [follows](Self::follow) them.
///
/// The pool lives as long as its last clone or buffer; then it waits for the stream before its memory goes.
#[derive(Debug)]
pub struct Pool<B: Backend> {
    inner: Arc<Inner<B>>,
}

impl<B: Backend> Clone for Pool<B> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

#[derive(Debug)]
struct Inner<B: Backend> {
    stream: Stream<B>,
    state: Mutex<State<B>>,
    handlers: Mutex<Handlers>,
}

/// How often the handlers are asked for one request: each time they have to give something.
const PRESSURE_ROUNDS_MAX: u32 = 64;

#[derive(Debug)]
struct State<B: Backend> {
    pages: Pages<B>,
    heap: Heap,
    live: BTreeMap<u64, Live>,
    allocated_bytes: u64,
    allocated_peak_bytes: u64,
    allocations: u64,
    unplanned: u64,
    planned: u64,
    releases: u64,
    recorder: Option<Recorder>,
    follower: Option<Follower>,
}

/// How many requests ahead a request is looked for in a placement that has another one next.
const RESYNC_MAX: usize = 8;

/// Where a run is in its placement.
#[derive(Debug)]
struct Follower {
    placement: Arc<Placement>,
    next: usize,
}

/// A range that was taken for a request, and where its placement goes on.
#[derive(Debug)]
struct Place {
    range: Range<u64>,
    /// None for a request that was not foreseen.
    next: Option<usize>,
}

/// What is known of a range in use, beside its offset.
#[derive(Clone, Copy, Debug)]
struct Live {
    bytes: u64,
    tag: &'static str,
    /// Counts the pool's requests.
    request: u64,
}

impl<B: Backend> Pool<B> {
    /// An empty pool: addresses are reserved, memory comes with the first buffers.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no address space left.
    pub fn new(stream: &Stream<B>, config: Config) -> Result<Self> {
        let pages = Pages::new(stream.device(), config.purpose, config.reserve_bytes.max(1))?;
        let state = State {
            heap: Heap::new(pages.address_bytes()),
            pages,
            live: BTreeMap::new(),
            allocated_bytes: 0,
            allocated_peak_bytes: 0,
            allocations: 0,
            unplanned: 0,
            planned: 0,
            releases: 0,
            recorder: None,
            follower: None,
        };
        let (stream, state, handlers) = (stream.clone(), Mutex::new(state), Mutex::default());
        Ok(Self { inner: Arc::new(Inner { stream, state, handlers }) })
    }

    /// Registers who can give memory back to the ledger when a buffer finds no room, as [`Allocator::on_pressure`](crate::Allocator::on_pressure): asked for exactly what is missing, after
    /// the pool's own free pages, on the thread that allocates.
    ///
    /// ```
    /// use std::sync::Mutex;
    /// use lighterage_allocator::{Config, Need, Pool};
    /// use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose, StreamKind};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let device = Device::new(Host::new(HostConfig::default())?, Ledger::new(1 << 20), Ledger::new(0));
    /// let pool = Pool::new(
    ///     &device.stream(StreamKind::Compute)?,
    ///     Config { purpose: Purpose::Activations, reserve_bytes: 1 << 30 },
    /// )?;
    /// let cache = Mutex::new(Some(device.create(Purpose::Workspace, 1 << 20)?));
    /// let _registration = pool.on_pressure(0, move |_: Need| {
    ///     let cached = cache.lock().ok().and_then(|mut cache| cache.take());
    ///     cached.map_or(0, |chunk| chunk.bytes())
    /// });
    /// let buffer = pool.allocate(1 << 20, "hidden")?;
    /// # assert_eq!(buffer.bytes(), 1 << 20);
    /// # Ok(()) }
    /// ```
    pub fn on_pressure(&self, priority: i32, handler: impl PressureHandler + 'static) -> Registration {
        register(&self.inner, priority, handler)
    }

    /// `bytes` of memory with undefined contents (0 counts as 1), aligned to [`ALIGNMENT_BYTES`]; `tag` says what for, in errors.
    ///
    /// If the ledger or the device refuses, the pool waits for its stream, gives back the pages that hold nothing, and tries once more; then it asks whoever
    /// registered for [pressure](Self::on_pressure).
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] with the numbers if there is no room, [`Error::Device`] if the driver fails otherwise, [`Error::Reentrant`] from within a pressure
    /// handler. Nothing is allocated or left mapped then.
    pub fn allocate(&self, bytes: u64, tag: &'static str) -> Result<Buffer<B>> {
        if is_handling() {
            return Err(Error::Reentrant { requested: bytes });
        }
        let mut state = self.inner.state();
        let rounded = bytes.max(1).checked_next_multiple_of(ALIGNMENT_BYTES);
        let Some(place) = rounded.and_then(|rounded| state.take(rounded)) else {
            return Err(self.refusal(&state, bytes, tag, None));
        };
        let range = &place.range;
        let mut outcome = self.map(&mut state, range);
        for _ in 0..PRESSURE_ROUNDS_MAX {
            let Some(bytes) = outcome.as_ref().err().and_then(missing) else { break };
            // The range is taken, so others may allocate and give back meanwhile.
            drop(state);
            let (given, _) = ask(&self.inner.handlers, Need { bytes, urgency: Urgency::Now });
            state = self.inner.state();
            if given == 0 {
                break;
            }
            outcome = self.map(&mut state, range);
        }
        if let Err(error) = outcome {
            state.heap.give(range.start, range.end - range.start);
            return Err(match error {
                DeviceError::OutOfBudget(_) | DeviceError::OutOfMemory { .. } => {
                    self.refusal(&state, bytes, tag, Some(error))
                }
                other => other.into(),
            });
        }
        let (offset, address) = (range.start, state.pages.address().offset(range.start));
        state.note(&place, tag);
        self.inner.tell(&state);
        drop(state);
        Ok(Buffer { pool: self.clone(), offset, address, bytes })
    }

    /// Begins a part of a recording: what is asked for from now on is noted until [`recorded`](Self::recorded). A part is what is placed for itself, and followed by
    /// itself: where one ends, the pool should be [trimmed](Self::trim), and where it is followed, too.
    ///
    /// Buffers that are older than the first part are not in it.
    pub fn record(&self) {
        let mut state = self.inner.state();
        let requests = state.allocations;
        state.recorder.get_or_insert_with(|| Recorder::new(requests)).begin_part();
    }

    /// Ends the recording. Without one, it is empty.
    #[must_use]
    pub fn recorded(&self) -> Recording {
        self.inner.state().recorder.take().map(Recorder::finish).unwrap_or_default()
    }

    /// From now on every request gets the place that was found for it, in order, instead of another one or none.
    ///
    /// A request that is not the next one is looked for a little further on; one that is not found, or whose place is not free, is placed by best fit and counted
    /// ([`Statistics::unplanned`]). It may need pages that the placement does not have: where they are more than it has in all, those that hold nothing are given back first. So it never takes
    /// what it may not, and always gets what there is.
    pub fn follow(&self, placement: &Arc<Placement>) {
        self.inner.state().follower = Some(Follower { placement: Arc::clone(placement), next: 0 });
    }

    /// Says that the program is at the place of that name. A recording notes it; where a placement is followed, the requests that come next are those that came
    /// after that mark: of several ones the next, or from the last one on the first. So one turn of a loop, recorded, serves all of them, and what is skipped is passed over.
    pub fn mark(&self, label: &'static str) {
        let mut state = self.inner.state();
        if let Some(recorder) = &mut state.recorder {
            recorder.mark(label);
        }
        if let Some(Follower { placement, next }) = &mut state.follower {
            *next = placement.marked(label, *next).unwrap_or(*next);
        }
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Device<B> {
        self.inner.stream.device()
    }

    /// The stream that orders all work on the pool's memory.
    #[must_use]
    pub fn stream(&self) -> &Stream<B> {
        &self.inner.stream
    }

    /// Gives physical pages that hold nothing back to the ledger; waits for the stream. Returns the bytes given back.
    ///
    /// Where later buffers are placed does not change by it.
    ///
    /// # Errors
    /// [`Error::Device`] if earlier work on the stream failed or the driver refuses to unmap; pages given back until then stay so.
    pub fn trim(&self) -> Result<u64> {
        let mut state = self.inner.state();
        let before = state.pages.reserved_bytes();
        self.release(&mut state, &(0..0))?;
        Ok(before - state.pages.reserved_bytes())
    }

    /// The counters now.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let state = self.inner.state();
        Statistics {
            allocated_bytes: state.allocated_bytes,
            allocated_peak_bytes: state.allocated_peak_bytes,
            reserved_bytes: state.pages.reserved_bytes(),
            reserved_peak_bytes: state.pages.reserved_peak_bytes(),
            allocations: state.allocations,
            planned: state.planned,
            unplanned: state.unplanned,
        }
    }

    /// How often pages that held nothing were given back, or were to be: as long as it is the same, all memory that buffers ever had is still mapped. For who replays
    /// recorded work, which uses again what it gave back when it was recorded.
    #[must_use]
    pub fn releases(&self) -> u64 {
        self.inner.state().releases
    }

    /// Sets both peaks to the present values.
    pub fn reset_peaks(&self) {
        let mut state = self.inner.state();
        state.allocated_peak_bytes = state.allocated_bytes;
        state.pages.reset_peak();
    }

    /// Maps what is missing of a range; where memory is refused, once more after giving back every other page that holds nothing.
    fn map(&self, state: &mut State<B>, range: &Range<u64>) -> Result<(), DeviceError> {
        if state.leaves_plan(range) {
            self.release(state, range)?;
        }
        match state.pages.map(range) {
            Err(DeviceError::OutOfBudget(_) | DeviceError::OutOfMemory { .. }) => {
                self.release(state, range)?;
                state.pages.map(range)
            }
            outcome => outcome,
        }
    }

    fn release(&self, state: &mut State<B>, keep: &Range<u64>) -> Result<(), DeviceError> {
        // A free range may still be in use by work that was launched before its buffer was dropped.
        self.inner.stream.synchronize()?;
        let State { heap, pages, releases, .. } = state;
        *releases += 1;
        heap.free().try_for_each(|(start, length)| pages.unmap_within(&(start..start + length), keep))
    }

    fn refusal(
        &self,
        state: &State<B>,
        requested: u64,
        tag: &'static str,
        cause: Option<DeviceError>,
    ) -> Error {
        Error::OutOfMemory(Box::new(OutOfMemory {
            requested,
            tag,
            allocated: state.allocated_bytes,
            reserved: state.pages.reserved_bytes(),
            largest_free: state.heap.largest(),
            address_bytes: state.pages.address_bytes(),
            cap: self.device().ledger().cap_bytes(),
            tags: top_tags(state.live.values().map(|live| (live.tag, live.bytes))),
            cause,
        }))
    }
}

/// Bytes that are missing, where that is what went wrong.
fn missing(error: &DeviceError) -> Option<u64> {
    match error {
        DeviceError::OutOfBudget(refused) => {
            let granted: u64 = refused.granted.iter().map(|(_, bytes)| bytes).sum();
            Some(granted.saturating_add(refused.requested).saturating_sub(refused.cap))
        }
        DeviceError::OutOfMemory { requested, capacity, used } => {
            Some(used.saturating_add(*requested).saturating_sub(*capacity))
        }
        _ => None,
    }
}

impl<B: Backend> Presses for Inner<B> {
    fn handlers(&self) -> &Mutex<Handlers> {
        &self.handlers
    }
}

impl Follower {
    /// Takes the place of the next request of this size, not far ahead, if it is free: its offset, and the number of the request after it.
    fn take(&self, bytes: u64, heap: &mut Heap) -> Option<(u64, usize)> {
        let ahead = self.placement.slots().iter().enumerate().skip(self.next).take(RESYNC_MAX + 1);
        let mut fitting = ahead.filter(|(_, slot)| slot.bytes == bytes);
        fitting
            .find(|(_, slot)| heap.take_at(slot.offset, bytes))
            .map(|(index, slot)| (slot.offset, index + 1))
    }
}

impl<B: Backend> State<B> {
    /// A range for a request: the one that was found for it beforehand, or the best fit.
    fn take(&mut self, bytes: u64) -> Option<Place> {
        let planned = self.follower.as_ref().and_then(|follower| follower.take(bytes, &mut self.heap));
        let (offset, next) = match planned {
            Some((offset, next)) => (offset, Some(next)),
            None => (self.heap.take(bytes)?, None),
        };
        Some(Place { range: offset..offset + bytes, next })
    }

    /// Whether to map a range would take more than the placement that is followed.
    fn leaves_plan(&self, range: &Range<u64>) -> bool {
        let limit = self.follower.as_ref().map_or(u64::MAX, |follower| follower.placement.bytes());
        self.pages.reserved_bytes() + self.pages.missing_bytes(range) > limit
    }

    fn note(&mut self, place: &Place, tag: &'static str) {
        let (request, bytes) = (self.allocations, place.range.end - place.range.start);
        self.live.insert(place.range.start, Live { bytes, tag, request });
        self.allocations += 1;
        self.allocated_bytes += bytes;
        self.allocated_peak_bytes = self.allocated_peak_bytes.max(self.allocated_bytes);
        if let Some(recorder) = &mut self.recorder {
            recorder.take(request, bytes);
        }
        if let Some(follower) = &mut self.follower {
            self.planned += u64::from(place.next.is_some());
            self.unplanned += u64::from(place.next.is_none());
            follower.next = place.next.unwrap_or(follower.next);
        }
    }

    fn free(&mut self, offset: u64) {
        // Each buffer is dropped once, so its entry is there.
        if let Some(live) = self.live.remove(&offset) {
            self.allocated_bytes -= live.bytes;
            self.heap.give(offset, live.bytes);
            if let Some(recorder) = &mut self.recorder {
                recorder.give(live.request);
            }
        }
    }
}

impl<B: Backend> Inner<B> {
    /// Tells who records how much is handed out.
    fn tell(&self, state: &State<B>) {
        if let Some(recorder) = self.stream.device().recorder() {
            recorder.sample(Counter::InUse, state.allocated_bytes);
        }
    }

    fn state(&self) -> MutexGuard<'_, State<B>> {
        // The books are changed after the calls that can fail, so a panic elsewhere does not spoil them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Drop for Inner<B> {
    fn drop(&mut self) {
        // Work may still use the pages.
        let memory = self.state().pages.memory();
        self.stream.drop_when_done(memory);
    }
}

/// Device memory, given back to its pool on drop, to be used again by later work of the same stream.
#[derive(Debug)]
pub struct Buffer<B: Backend> {
    pool: Pool<B>,
    offset: u64,
    address: Address,
    bytes: u64,
}

impl<B: Backend> Buffer<B> {
    /// First byte.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Distance from the pool's first address: the same in every run of the same sequence of allocations.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes asked for.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The stream that orders all work on it.
    #[must_use]
    pub fn owner(&self) -> StreamId {
        self.pool.stream().id()
    }
}

impl<B: Backend> Drop for Buffer<B> {
    fn drop(&mut self) {
        let mut state = self.pool.inner.state();
        state.free(self.offset);
        self.pool.inner.tell(&state);
    }
}
