mod costs;
mod profile;
mod rates;
mod timeline;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lighterage_kernels::gemm::linear::Call;
use rustix::io::Errno;

pub use self::costs::{CallCost, MemoryCalls, MemoryCosts};
pub use self::profile::Profile;
pub use self::rates::Rates;
pub(crate) use self::rates::as_f64;
use self::timeline::{Engine, Point, Timeline, Work};
use crate::space::{Space, Usage};
use crate::{
    Address, Backend, ChunkId, Clock, Error, Grant, Info, Kernel, Modelled, Result, Stamp, StreamKind,
};

/// How a [`Sim`] device is made.
#[derive(Clone, Copy, Debug)]
pub struct SimConfig {
    /// Page: a power of two.
    pub page_bytes: u64,
    /// Physical bytes that it has.
    pub capacity_bytes: u64,
    /// How fast it is; none: its clock stands still, and it only counts.
    pub rates: Option<Rates>,
    /// What calls on memory take the host; none: what the rates say, and without rates no time.
    pub memory_costs: Option<MemoryCosts>,
}

impl Default for SimConfig {
    /// The pages of CUDA, 2 MiB, more memory than any model needs, and no clock.
    fn default() -> Self {
        Self { page_bytes: 2 << 20, capacity_bytes: 1 << 40, rates: None, memory_costs: None }
    }
}

impl SimConfig {
    /// A card: its memory and its rates.
    #[must_use]
    pub fn of(profile: &Profile) -> Self {
        Self { capacity_bytes: profile.memory_bytes, rates: Some(profile.rates), ..Self::default() }
    }
}

/// What a [`Sim`] was asked to do so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SimCounters {
    /// Kernels launched.
    pub launches: u64,
    /// Their floating-point operations.
    pub flops: f64,
    /// The bytes that they read and write.
    pub bytes: f64,
    /// Copies from host to device.
    pub to_device: Traffic,
    /// Copies from device to host.
    pub to_host: Traffic,
    /// Copies and fills on the device.
    pub on_device: Traffic,
}

/// Copies of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many.
    pub copies: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Traffic {
    const fn count(&mut self, bytes: u64) {
        self.add(Self { copies: 1, bytes });
    }

    const fn add(&mut self, Self { copies, bytes }: Self) {
        self.copies += copies;
        self.bytes += bytes;
    }
}

impl SimCounters {
    fn add(&mut self, more: &Self) {
        self.launches += more.launches;
        self.flops += more.flops;
        self.bytes += more.bytes;
        self.to_device.add(more.to_device);
        self.to_host.add(more.to_host);
        self.on_device.add(more.on_device);
    }
}

/// A device without bytes: addresses are arithmetic, under the same rules and with the same errors as on [`Host`](crate::Host), and work is counted, and
/// takes its time on a virtual clock.
///
/// The same calls give the same addresses and the same times, whatever the machine. Reads answer that there is nothing to read.
///
/// # The clock
///
/// With [`rates`](SimConfig::rates) a call that queues something takes the host a moment, and the work takes what its cost says: kernels the longer of FLOPs and
/// bytes at the rates of the card, copies their bytes at the link's. Streams run beside each other; what shares an engine shares its rate. An event is
/// complete when virtual time has come to it: [`query`](Backend::query) asks at the host's time, waiting moves the host's time on. Calls on memory take
/// the host what [`memory_costs`](SimConfig::memory_costs) says, and by default what the rates say ([`Rates::memory_calls`]).
#[derive(Debug)]
pub struct Sim {
    info: Info,
    rates: Option<Rates>,
    memory_costs: MemoryCosts,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    space: Space,
    /// The next free address: addresses are never used twice.
    next: u64,
    counters: SimCounters,
    /// Of streams that record: what their graphs come to.
    recordings: BTreeMap<usize, Tally>,
    memory_calls: MemoryCalls,
    products: BTreeSet<Call>,
    timeline: Timeline,
    modelled: Modelled,
}

/// What work comes to.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    counters: SimCounters,
    compute_seconds: f64,
}

/// Flags of a [`Sim`]: their numbers. They have no words: nothing is left of them when they are dropped.
#[derive(Debug)]
pub struct SimFlags {
    numbers: Range<usize>,
    _grant: Grant,
}

/// Recorded work of a [`Sim`].
#[derive(Debug)]
pub struct SimGraph {
    work: Vec<Work>,
    tally: Tally,
}

/// A stream of a [`Sim`]: its number.
#[derive(Debug)]
pub struct SimStream(usize);

/// An event of a [`Sim`]: the point that it last recorded.
#[derive(Debug, Default)]
pub struct SimEvent(Mutex<Point>);

impl SimEvent {
    fn point(&self) -> MutexGuard<'_, Point> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Addresses start here, so that null is none of them.
const FIRST_ADDRESS: u64 = 1 << 32;

impl Sim {
    /// A device as configured.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if the page is no power of two.
    pub fn new(config: SimConfig) -> Result<Self> {
        if !config.page_bytes.is_power_of_two() {
            let reason = format!("a page of {} bytes is no power of two", config.page_bytes);
            return Err(Error::NoDevice { backend: "sim", reason });
        }
        let SimConfig { page_bytes, capacity_bytes, rates, memory_costs } = config;
        let info = Info {
            name: "sim".to_owned(),
            isa: String::new(),
            page_bytes,
            capacity_bytes,
            has_bytes: false,
            product_library: None,
        };
        let state = State {
            space: Space::new(page_bytes, capacity_bytes),
            next: FIRST_ADDRESS.next_multiple_of(page_bytes),
            counters: SimCounters::default(),
            recordings: BTreeMap::new(),
            memory_calls: MemoryCalls::default(),
            products: BTreeSet::new(),
            timeline: Timeline::new(rates.map_or(0.0, |rates| rates.slowdown)),
            modelled: Modelled::default(),
        };
        Ok(Self {
            info,
            rates,
            memory_costs: memory_costs.or(rates.map(|rates| rates.memory_calls)).unwrap_or_default(),
            state: Mutex::new(state),
        })
    }

    /// What it was asked to do so far.
    #[must_use]
    pub fn counters(&self) -> SimCounters {
        self.state().counters
    }

    /// The products that it was asked for so far, each once, in order: what a table may have lines for.
    #[must_use]
    pub fn products(&self) -> Vec<Call> {
        self.state().products.iter().copied().collect()
    }

    /// What it was asked to do about memory so far.
    #[must_use]
    pub fn memory_calls(&self) -> MemoryCalls {
        self.state().memory_calls
    }

    /// What exists now: zero when everything was given back.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.state().space.usage()
    }

    /// The host's clock, in seconds since the device was made; 0 without rates.
    #[must_use]
    pub fn now_seconds(&self) -> f64 {
        self.state().timeline.now()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call on memory and books its time.
    fn memory_call(
        &self,
        state: &mut State,
        count: fn(&mut MemoryCalls) -> &mut u64,
        cost: &CallCost,
        bytes: u64,
        maps: u64,
    ) {
        *count(&mut state.memory_calls) += 1;
        let pages = bytes.div_ceil(self.info.page_bytes);
        let seconds = cost.seconds(pages, maps, state.space.usage().chunks as u64);
        if seconds > 0.0 {
            state.memory_calls.seconds += seconds;
            state.modelled.host_seconds += seconds;
            state.timeline.spend(seconds);
        }
    }

    /// Books the time in which the host moves or page-locks so many bytes at a rate.
    fn host_work(&self, state: &mut State, bytes: u64, rate: fn(&Rates) -> f64) {
        if let Some(rates) = &self.rates {
            let seconds = as_f64(bytes) / rate(rates);
            state.timeline.spend(seconds);
            state.modelled.host_seconds += seconds;
        }
    }

    /// Has the host wait for all work of a stream that does not record.
    fn drain(&self, state: &mut State, stream: &SimStream) -> Result<()> {
        state.memory_calls.host_waits += 1;
        self.call(state);
        let is_reached = state.timeline.drain(stream.0);
        state.reached(is_reached)
    }

    /// Books the time of a call that queues something; whether there is a clock.
    fn call(&self, state: &mut State) -> Option<Rates> {
        if let Some(rates) = &self.rates {
            state.timeline.spend(rates.call_seconds);
            state.modelled.host_seconds += rates.call_seconds;
        }
        self.rates
    }
}

impl State {
    /// The counters that work of the stream goes to: its graph's, while it records one.
    fn counters(&mut self, stream: &SimStream) -> &mut SimCounters {
        self.recordings.get_mut(&stream.0).map_or(&mut self.counters, |tally| &mut tally.counters)
    }

    /// Refuses what cannot be part of a graph.
    fn not_recorded(&self, stream: &SimStream, what: &str) -> Result<()> {
        if self.recordings.contains_key(&stream.0) {
            return Err(Error::Stream(format!("{what} cannot be part of a graph")));
        }
        Ok(())
    }

    /// The answer of a wait.
    fn reached(&self, is_reached: bool) -> Result<()> {
        match self.timeline.waited_for().filter(|_| !is_reached) {
            Some(flag) => Err(Error::Stream(format!("flag {flag} is never raised"))),
            None => Ok(()),
        }
    }

    /// Work of the multiprocessors.
    fn compute(&mut self, stream: &SimStream, seconds: f64) {
        match self.recordings.get_mut(&stream.0) {
            Some(tally) => tally.compute_seconds += seconds,
            None => self.modelled.compute_seconds += seconds,
        }
        self.timeline.run(stream.0, Engine::Compute, seconds);
    }

    /// Whether the bytes are in one piece of page-locked memory.
    fn is_pinned(&self, source: *const u8, bytes: u64) -> bool {
        let first = source.addr() as u64;
        self.space
            .locked()
            .any(|(address, length)| address.0 <= first && first.saturating_add(bytes) <= address.0 + length)
    }
}

/// Addresses that nobody had before.
fn take(next: &mut u64, call: &'static str, page: u64, bytes: u64) -> Result<Address> {
    let address = *next;
    let end = address.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(page));
    let Some(end) = end else {
        let (code, message) = (Errno::NOMEM.raw_os_error(), format!("no {bytes} bytes of addresses left"));
        return Err(Error::Driver { call, code, message });
    };
    *next = end;
    Ok(Address(address))
}

impl Backend for Sim {
    type Stream = SimStream;
    type Event = SimEvent;
    type Flags = SimFlags;
    type Graph = SimGraph;

    fn info(&self) -> &Info {
        &self.info
    }

    fn reserve(&self, bytes: u64) -> Result<Address> {
        let state = &mut *self.state();
        self.memory_call(state, |calls| &mut calls.reserves, &self.memory_costs.reserve, bytes, 1);
        let State { space, next, .. } = state;
        space.reserve(bytes, || take(next, "reserve", self.info.page_bytes, bytes))
    }

    unsafe fn unreserve(&self, address: Address, bytes: u64) -> Result<()> {
        self.state().space.unreserve(address, bytes, || Ok(()))
    }

    fn create(&self, bytes: u64) -> Result<ChunkId> {
        let state = &mut *self.state();
        self.memory_call(state, |calls| &mut calls.creates, &self.memory_costs.create, bytes, 1);
        state.space.create(bytes, |_| Ok(()))
    }

    unsafe fn destroy(&self, chunk: ChunkId) -> Result<()> {
        let state = &mut *self.state();
        self.memory_call(state, |calls| &mut calls.destroys, &self.memory_costs.destroy, 0, 1);
        state.space.destroy(chunk).map(drop)
    }

    unsafe fn map(&self, address: Address, chunk: ChunkId, bytes: u64) -> Result<()> {
        let state = &mut *self.state();
        self.memory_call(state, |calls| &mut calls.maps, &self.memory_costs.map, bytes, 1);
        state.space.map(address, chunk, bytes, |_| Ok(()))
    }

    unsafe fn set_access(&self, address: Address, bytes: u64) -> Result<()> {
        let state = &mut *self.state();
        let maps = state.space.maps_in(address, bytes);
        self.memory_call(state, |calls| &mut calls.grants, &self.memory_costs.set_access, bytes, maps);
        state.space.set_access(address, bytes, || Ok(()))
    }

    unsafe fn unmap(&self, address: Address, bytes: u64) -> Result<()> {
        let state = &mut *self.state();
        let maps = state.space.maps_in(address, bytes);
        self.memory_call(state, |calls| &mut calls.unmaps, &self.memory_costs.unmap, bytes, maps);
        state.space.unmap(address, bytes, || Ok(())).map(drop)
    }

    fn pin(&self, bytes: u64) -> Result<Address> {
        let state = &mut *self.state();
        self.host_work(state, bytes, |rates| rates.lock_bytes);
        let State { space, next, .. } = state;
        space.pin(bytes, || take(next, "pin", self.info.page_bytes, bytes.max(1)))
    }

    unsafe fn unpin(&self, address: Address, bytes: u64) -> Result<()> {
        self.state().space.unpin(address, bytes, || Ok(()))
    }

    unsafe fn register(&self, first: Address, bytes: u64) -> Result<()> {
        let state = &mut *self.state();
        self.host_work(state, bytes, |rates| rates.lock_bytes);
        state.space.register(first, bytes, || Ok(()))
    }

    unsafe fn unregister(&self, first: Address, bytes: u64) -> Result<()> {
        self.state().space.unregister(first, bytes, || Ok(()))
    }

    fn stream(&self, _kind: StreamKind) -> Result<SimStream> {
        Ok(SimStream(self.state().timeline.add_stream()))
    }

    fn event(&self) -> Result<SimEvent> {
        Ok(SimEvent::default())
    }

    unsafe fn copy_from_host(
        &self,
        stream: &SimStream,
        target: Address,
        source: *const u8,
        bytes: u64,
        staged: bool,
    ) -> Result<()> {
        let state = &mut *self.state();
        state.space.accessible("copy_from_host", target, bytes)?;
        if staged && state.recordings.contains_key(&stream.0) {
            let reason = "a staged copy cannot be part of a graph";
            return Err(Error::Range { call: "copy_from_host", address: target, bytes, reason });
        }
        state.counters(stream).to_device.count(bytes);
        if let Some(rates) = self.call(state) {
            let is_pinned = state.is_pinned(source, bytes);
            if staged && !is_pinned {
                // The bytes are taken before the call returns.
                state.timeline.spend(rates.copy_seconds(bytes, false));
            }
            let seconds = rates.copy_seconds(bytes, staged || is_pinned);
            state.timeline.run(stream.0, Engine::ToDevice, seconds);
        }
        Ok(())
    }

    unsafe fn copy_to_host(
        &self,
        stream: &SimStream,
        _target: *mut u8,
        source: Address,
        bytes: u64,
    ) -> Result<bool> {
        let state = &mut *self.state();
        state.space.accessible("copy_to_host", source, bytes)?;
        state.not_recorded(stream, "a read")?;
        state.counters.to_host.count(bytes);
        if let Some(rates) = self.call(state) {
            state.timeline.run(stream.0, Engine::ToHost, rates.copy_seconds(bytes, false));
            let is_reached = state.timeline.drain(stream.0);
            state.reached(is_reached)?;
        }
        Ok(false)
    }

    unsafe fn copy(&self, stream: &SimStream, target: Address, source: Address, bytes: u64) -> Result<()> {
        let state = &mut *self.state();
        state.space.accessible("copy", target, bytes)?;
        state.space.accessible("copy", source, bytes)?;
        state.counters(stream).on_device.count(bytes);
        if let Some(rates) = self.call(state) {
            state.compute(stream, rates.move_seconds(2 * bytes));
        }
        Ok(())
    }

    unsafe fn fill(&self, stream: &SimStream, target: Address, _value: u8, bytes: u64) -> Result<()> {
        let state = &mut *self.state();
        state.space.accessible("fill", target, bytes)?;
        state.counters(stream).on_device.count(bytes);
        if let Some(rates) = self.call(state) {
            state.compute(stream, rates.move_seconds(bytes));
        }
        Ok(())
    }

    unsafe fn launch<K: Kernel>(&self, stream: &SimStream, params: &K::Params) -> Result<()> {
        let cost = K::cost(params);
        let state = &mut *self.state();
        let counters = state.counters(stream);
        counters.launches += 1;
        counters.flops += cost.flops;
        counters.bytes += cost.bytes;
        state.products.extend(K::product(params));
        if let Some(rates) = self.call(state) {
            state.compute(stream, rates.kernel_seconds(K::NAME, cost));
        }
        Ok(())
    }

    fn record(&self, stream: &SimStream, event: &SimEvent) -> Result<()> {
        let state = &mut *self.state();
        state.not_recorded(stream, "an event")?;
        if self.call(state).is_some() {
            *event.point() = state.timeline.record(stream.0);
        }
        Ok(())
    }

    fn wait(&self, stream: &SimStream, event: &SimEvent) -> Result<()> {
        let state = &mut *self.state();
        state.not_recorded(stream, "a wait for an event")?;
        if self.call(state).is_some() {
            state.timeline.wait(stream.0, *event.point());
        }
        Ok(())
    }

    fn query(&self, event: &SimEvent) -> Result<bool> {
        let state = &mut *self.state();
        self.call(state);
        let point = *event.point();
        Ok(state.timeline.is_reached(point))
    }

    fn synchronize_event(&self, event: &SimEvent) -> Result<()> {
        let state = &mut *self.state();
        state.memory_calls.host_waits += 1;
        self.call(state);
        let point = *event.point();
        let is_reached = state.timeline.wait_for(point);
        state.reached(is_reached)
    }

    fn synchronize(&self, stream: &SimStream) -> Result<()> {
        let state = &mut *self.state();
        state.not_recorded(stream, "a wait of the host")?;
        self.drain(state, stream)
    }

    fn try_synchronize(&self, stream: &SimStream) -> Option<Result<()>> {
        let state = &mut *self.state();
        (!state.recordings.contains_key(&stream.0)).then(|| self.drain(state, stream))
    }

    fn can_replay(&self) -> bool {
        true
    }

    fn flags(&self, count: usize, grant: Grant) -> Result<SimFlags> {
        let first = self.state().timeline.add_flags(count);
        Ok(SimFlags { numbers: first..first + count, _grant: grant })
    }

    fn raise(&self, stream: &SimStream, flags: &SimFlags, index: usize) -> Result<()> {
        let state = &mut *self.state();
        if self.call(state).is_some() {
            state.timeline.raise(stream.0, flags.numbers.start + index);
        }
        Ok(())
    }

    fn take(&self, stream: &SimStream, flags: &SimFlags, index: usize) -> Result<()> {
        let state = &mut *self.state();
        if self.call(state).is_some() {
            state.timeline.take(stream.0, flags.numbers.start + index);
        }
        Ok(())
    }

    fn give_up(&self, flags: &SimFlags, _why: &str) {
        self.state().timeline.give_up(flags.numbers.clone());
    }

    fn begin_graph(&self, stream: &SimStream) -> Result<()> {
        let state = &mut *self.state();
        state.not_recorded(stream, "a graph")?;
        state.timeline.begin_graph(stream.0);
        state.recordings.insert(stream.0, Tally::default());
        Ok(())
    }

    fn end_graph(&self, stream: &SimStream) -> Result<SimGraph> {
        let state = &mut *self.state();
        let (work, tally) = (state.timeline.end_graph(stream.0), state.recordings.remove(&stream.0));
        let (work, tally) = (work.unwrap_or_default(), tally.unwrap_or_default());
        Ok(SimGraph { work, tally })
    }

    /// One call of the host, however much it queues.
    unsafe fn replay(&self, stream: &SimStream, graph: &mut SimGraph) -> Result<()> {
        let state = &mut *self.state();
        state.not_recorded(stream, "a graph")?;
        state.counters.add(&graph.tally.counters);
        state.modelled.compute_seconds += graph.tally.compute_seconds;
        if self.call(state).is_some() {
            state.timeline.replay(stream.0, &graph.work);
        }
        Ok(())
    }

    fn filled(&self, bytes: u64) {
        self.host_work(&mut self.state(), bytes, |rates| rates.read_bytes);
    }

    fn modelled(&self) -> Option<Modelled> {
        self.rates.map(|_| self.state().modelled)
    }

    fn clock(&self) -> Clock {
        self.state().timeline.clock()
    }

    fn stamp(&self, stream: &SimStream, stamp: Stamp) -> Result<()> {
        // Without rates the clock stands still: everything happens at 0.
        self.state().timeline.stamp(stream.0, stamp);
        Ok(())
    }

    fn settle(&self) {
        self.state().timeline.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 2 << 20;

    fn sim(create: CallCost) -> Sim {
        let memory_costs = Some(MemoryCosts { create, map: CallCost::of(1.0), ..MemoryCosts::default() });
        Sim::new(SimConfig { memory_costs, ..SimConfig::default() }).unwrap()
    }

    #[test]
    fn calls_on_memory_take_the_host_their_time() {
        let sim = sim(CallCost {
            seconds: 10.0,
            seconds_per_page: 100.0,
            seconds_per_chunk: 1000.0,
            seconds_per_map: 0.0,
        });
        let address = sim.reserve(8 * PAGE).unwrap();
        let first = sim.create(PAGE).unwrap();
        assert_eq!(sim.now_seconds(), 110.0);
        sim.create(3 * PAGE).unwrap();
        assert_eq!(sim.now_seconds(), 110.0 + 310.0 + 1000.0, "three pages, beside one chunk");
        // SAFETY: the range is reserved and bare, the chunk exists and is as long.
        unsafe { sim.map(address, first, PAGE) }.unwrap();
        assert_eq!(sim.memory_calls().seconds, 1421.0);
        let calls =
            MemoryCalls { reserves: 1, creates: 2, maps: 1, seconds: 1421.0, ..MemoryCalls::default() };
        assert_eq!(sim.memory_calls(), calls);
        assert_eq!(calls.map_type(), 1);
    }

    #[test]
    fn opening_a_run_of_maps_costs_what_each_of_them_does() {
        let set_access = CallCost { seconds_per_page: 1.0, seconds_per_map: 100.0, ..CallCost::of(0.5) };
        let memory_costs = Some(MemoryCosts { set_access, ..MemoryCosts::FREE });
        let sim = Sim::new(SimConfig { memory_costs, ..SimConfig::default() }).unwrap();
        let address = sim.reserve(8 * PAGE).unwrap();
        for (page, pages) in [(0, 1), (1, 3)] {
            let chunk = sim.create(pages * PAGE).unwrap();
            // SAFETY: the range is reserved and bare, the chunk exists and is as long.
            unsafe { sim.map(address.offset(page * PAGE), chunk, pages * PAGE) }.unwrap();
        }
        // SAFETY: all of it is mapped.
        unsafe { sim.set_access(address, 4 * PAGE) }.unwrap();
        assert_eq!(sim.memory_calls().seconds, 204.5);
    }

    /// The mean over 4,096 creates is what was published.
    #[test]
    fn the_table_of_an_a100_has_its_mean() {
        let sim =
            Sim::new(SimConfig { memory_costs: Some(MemoryCosts::A100), ..SimConfig::default() }).unwrap();
        for _ in 0..4096 {
            sim.create(PAGE).unwrap();
        }
        let mean = sim.now_seconds() / 4096.0;
        assert!((mean - 193.0e-6).abs() < 0.1e-6, "{mean}");
    }
}
