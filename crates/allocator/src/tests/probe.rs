//! A device for tests: a `Sim` whose streams go on only when told, which can fail any call, and which watches over each.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lighterage_device::{
    Address, Backend, ChunkId, Error, Info, Kernel, Ledger, Result, Sim, SimConfig, StreamKind, Usage,
};

use crate::sync::tested::HELD;

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    OutOfMemory,
    Refused,
    Lost,
    /// What was launched earlier has failed: nothing of the stream is pending any more.
    Stream,
}

/// Which calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failing {
    /// The one of this number.
    Once(u64, Fault),
    /// Every one of this name from the one of this number on.
    From(u64, &'static str, Fault),
}

impl Fault {
    pub(super) const ALL: [Self; 4] = [Self::OutOfMemory, Self::Refused, Self::Lost, Self::Stream];

    fn error(self, call: &'static str) -> Error {
        match self {
            Self::OutOfMemory => Error::OutOfMemory { requested: 0, capacity: 0, used: 0 },
            Self::Refused => Error::Driver { call, code: 1, message: "injected: refused".to_owned() },
            Self::Stream => Error::Stream("injected: a kernel failed".to_owned()),
            Self::Lost => Error::Driver { call, code: 999, message: "injected: device lost".to_owned() },
        }
    }
}

#[derive(Debug)]
pub(super) struct Probe {
    sim: Sim,
    state: Arc<Mutex<State>>,
    calls: AtomicU64,
    fail: Option<Failing>,
    /// Held against the bytes that exist, after every create.
    ledger: Ledger,
}

#[derive(Debug, Default)]
struct State {
    /// Work queued and done, by stream.
    streams: Vec<(u64, u64)>,
    /// Ranges that queued work uses: stream, number of the work, first byte, bytes.
    uses: Vec<(usize, u64, u64, u64)>,
    maps: BTreeMap<u64, u64>,
    failures: u64,
    /// Questions after an event until everything that is queued ends by itself.
    ends_after: Option<u64>,
}

/// A stream: its number.
#[derive(Debug)]
pub(super) struct ProbeStream(usize);

#[derive(Debug, Default)]
pub(super) struct ProbeEvent(Mutex<Option<(usize, u64)>>);

/// Lets the streams of a [`Probe`] go on, from outside.
#[derive(Clone, Debug)]
pub(super) struct Clock(Arc<Mutex<State>>);

impl Probe {
    pub(super) fn new(page: u64, capacity: u64, ledger: &Ledger, fail: Option<Failing>) -> Self {
        let config = SimConfig { page_bytes: page, capacity_bytes: capacity, ..SimConfig::default() };
        Self {
            sim: Sim::new(config).unwrap(),
            state: Arc::default(),
            calls: AtomicU64::new(0),
            fail,
            ledger: ledger.clone(),
        }
    }

    pub(super) fn clock(&self) -> Clock {
        Clock(Arc::clone(&self.state))
    }

    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    pub(super) fn usage(&self) -> Usage {
        self.sim.usage()
    }

    /// Counts a call; the error if it is the one to fail.
    fn enter(&self, call: &'static str) -> Result<()> {
        assert_eq!(HELD.get(), 0, "I10: {call} under the lock of the books");
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let fault = match self.fail {
            Some(Failing::Once(failing, fault)) if failing == number => fault,
            Some(Failing::From(first, name, fault)) if first <= number && name == call => fault,
            _ => return Ok(()),
        };
        self.state().failures += 1;
        Err(fault.error(call))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues work that uses a range.
    pub(super) fn launch(&self, stream: usize, address: Address, bytes: u64) {
        let mut state = self.state();
        let mapped =
            |at: u64| state.maps.range(..=at).next_back().is_some_and(|(start, length)| at < start + length);
        assert!(mapped(address.0) && mapped(address.0 + bytes - 1), "work on memory that is not there");
        state.streams[stream].0 += 1;
        let number = state.streams[stream].0;
        state.uses.push((stream, number, address.0, bytes));
    }

    /// Does everything that is queued on a stream.
    pub(super) fn finish(&self, stream: usize) {
        let mut state = self.state();
        state.finish(stream, u64::MAX);
    }

    pub(super) fn finish_all(&self) {
        let count = self.state().streams.len();
        (0..count).for_each(|stream| self.finish(stream));
    }

    /// Lets everything that is queued end by itself, just before the question number `query` from now on, counted from 1.
    pub(super) fn finish_at_query(&self, query: u64) {
        self.state().ends_after = Some(query);
    }

    /// Streams other than `mine` with work pending on a range.
    pub(super) fn users(&self, mine: usize, address: Address, bytes: u64) -> Vec<usize> {
        let state = self.state();
        let meets = |from: u64, length: u64| from < address.0 + bytes && address.0 < from + length;
        let users =
            state.uses.iter().filter(|(stream, _, from, length)| *stream != mine && meets(*from, *length));
        users.map(|(stream, ..)| *stream).collect()
    }

    /// Forgets uses of a stream that another one waits for: they are ordered now.
    pub(super) fn order(&self, stream: usize, upto: u64) {
        self.state().uses.retain(|(known, number, ..)| *known != stream || *number > upto);
    }

    pub(super) fn failures(&self) -> u64 {
        self.state().failures
    }
}

impl State {
    fn finish(&mut self, stream: usize, upto: u64) {
        let (queued, done) = &mut self.streams[stream];
        *done = (*done).max(upto.min(*queued));
        let done = *done;
        self.uses.retain(|(known, number, ..)| *known != stream || *number > done);
    }

    fn assert_idle(&self, call: &str, address: u64, bytes: u64) {
        let used =
            self.uses.iter().find(|(_, _, from, length)| *from < address + bytes && address < from + length);
        assert!(used.is_none(), "I7: {call} of {bytes} bytes at {address:#x} under running work {used:?}");
    }
}

impl Backend for Probe {
    type Stream = ProbeStream;
    type Event = ProbeEvent;
    type Flags = ();
    type Graph = ();

    fn info(&self) -> &Info {
        self.sim.info()
    }

    fn reserve(&self, bytes: u64) -> Result<Address> {
        self.enter("reserve")?;
        self.sim.reserve(bytes)
    }

    unsafe fn unreserve(&self, address: Address, bytes: u64) -> Result<()> {
        let outcome = self.enter("unreserve");
        // SAFETY: the caller's promise.
        unsafe { self.sim.unreserve(address, bytes) }.and(outcome)
    }

    fn create(&self, bytes: u64) -> Result<ChunkId> {
        self.enter("create")?;
        let chunk = self.sim.create(bytes)?;
        let (exists, granted) = (self.sim.usage().bytes, self.ledger.granted_bytes());
        assert!(exists <= granted, "I5: {exists} bytes exist, {granted} are granted");
        Ok(chunk)
    }

    unsafe fn destroy(&self, chunk: ChunkId) -> Result<()> {
        let outcome = self.enter("destroy");
        // SAFETY: the caller's promise.
        unsafe { self.sim.destroy(chunk) }.and(outcome)
    }

    unsafe fn map(&self, address: Address, chunk: ChunkId, bytes: u64) -> Result<()> {
        self.enter("map")?;
        // SAFETY: the caller's promise.
        unsafe { self.sim.map(address, chunk, bytes) }?;
        self.state().maps.insert(address.0, bytes);
        Ok(())
    }

    unsafe fn set_access(&self, address: Address, bytes: u64) -> Result<()> {
        self.enter("set_access")?;
        // SAFETY: the caller's promise.
        unsafe { self.sim.set_access(address, bytes) }
    }

    unsafe fn unmap(&self, address: Address, bytes: u64) -> Result<()> {
        let outcome = self.enter("unmap");
        let mut state = self.state();
        state.assert_idle("unmap", address.0, bytes);
        state.maps.retain(|start, _| !(address.0..address.0 + bytes).contains(start));
        drop(state);
        // SAFETY: the caller's promise.
        unsafe { self.sim.unmap(address, bytes) }.and(outcome)
    }

    fn pin(&self, bytes: u64) -> Result<Address> {
        self.sim.pin(bytes)
    }

    unsafe fn unpin(&self, address: Address, bytes: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.sim.unpin(address, bytes) }
    }

    unsafe fn register(&self, first: Address, bytes: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.sim.register(first, bytes) }
    }

    unsafe fn unregister(&self, first: Address, bytes: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.sim.unregister(first, bytes) }
    }

    fn stream(&self, _kind: StreamKind) -> Result<ProbeStream> {
        let mut state = self.state();
        state.streams.push((0, 0));
        Ok(ProbeStream(state.streams.len() - 1))
    }

    fn event(&self) -> Result<ProbeEvent> {
        self.enter("event")?;
        Ok(ProbeEvent::default())
    }

    unsafe fn copy_from_host(
        &self,
        _: &ProbeStream,
        _: Address,
        _: *const u8,
        _: u64,
        _: bool,
    ) -> Result<()> {
        unreachable!("the allocator copies nothing")
    }

    unsafe fn copy_to_host(&self, _: &ProbeStream, _: *mut u8, _: Address, _: u64) -> Result<bool> {
        unreachable!("the allocator copies nothing")
    }

    unsafe fn copy(&self, _: &ProbeStream, _: Address, _: Address, _: u64) -> Result<()> {
        unreachable!("the allocator copies nothing")
    }

    unsafe fn fill(&self, _: &ProbeStream, _: Address, _: u8, _: u64) -> Result<()> {
        unreachable!("the allocator fills nothing")
    }

    unsafe fn launch<K: Kernel>(&self, _: &ProbeStream, _: &K::Params) -> Result<()> {
        unreachable!("the allocator launches nothing")
    }

    fn record(&self, stream: &ProbeStream, event: &ProbeEvent) -> Result<()> {
        self.enter("record")?;
        let queued = self.state().streams[stream.0].0;
        *event.0.lock().unwrap() = Some((stream.0, queued));
        Ok(())
    }

    fn wait(&self, stream: &ProbeStream, event: &ProbeEvent) -> Result<()> {
        self.enter("wait")?;
        // From here on work of this stream comes after that of the other: in this model, which has no order between streams, it counts as done.
        if let Some((other, upto)) = *event.0.lock().unwrap()
            && other != stream.0
        {
            self.clock().order(other, upto);
        }
        Ok(())
    }

    fn query(&self, event: &ProbeEvent) -> Result<bool> {
        self.enter("query")?;
        let mut state = self.state();
        state.ends_after = state.ends_after.map(|left| left.saturating_sub(1));
        if state.ends_after == Some(0) {
            (0..state.streams.len()).for_each(|stream| state.finish(stream, u64::MAX));
        }
        Ok(event.0.lock().unwrap().is_none_or(|(stream, upto)| state.streams[stream].1 >= upto))
    }

    fn synchronize_event(&self, event: &ProbeEvent) -> Result<()> {
        let outcome = self.enter("synchronize_event");
        let is_over = matches!(outcome, Ok(()) | Err(Error::Stream(_)));
        if let Some((stream, upto)) = *event.0.lock().unwrap()
            && is_over
        {
            self.state().finish(stream, upto);
        }
        outcome
    }

    fn synchronize(&self, stream: &ProbeStream) -> Result<()> {
        self.state().finish(stream.0, u64::MAX);
        Ok(())
    }

    fn try_synchronize(&self, stream: &ProbeStream) -> Option<Result<()>> {
        Some(self.synchronize(stream))
    }
}
