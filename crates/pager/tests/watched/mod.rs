//! A device whose every call is looked at: the memory that exists against the cap, and the sequence of calls.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lighterage_device::{
    Address, Backend, ChunkId, Grant, Host, HostEvent, HostFlags, HostGraph, HostStream, Info, Kernel,
    Ledger, Result, StreamKind,
};

/// One call of the driver, with all that tells it from another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    /// Numbers of streams and events, addresses, sizes.
    pub(crate) numbers: Vec<u64>,
    /// A launch's kernel and parameters.
    pub(crate) launch: Option<(&'static str, Vec<u8>)>,
}

impl Call {
    /// Whether the host waits in it, or memory comes or goes.
    pub(crate) fn is_for_the_steady_state(&self) -> bool {
        matches!(self.name, "copy_from_host" | "copy" | "fill" | "launch" | "record" | "wait" | "query")
    }
}

/// Somebody who is shown each launch before it is queued, when all work of its stream before it is done: what the parameters point to is there to be read.
pub(crate) trait Onlooker: std::fmt::Debug + Send + Sync {
    fn look(&self, kernel: &'static str, parameters: &[u8]);
}

/// A [`Host`] in which no call may find more memory than the ledger's cap.
#[derive(Debug)]
pub(crate) struct Watched {
    host: Host,
    ledger: Ledger,
    onlooker: Option<Box<dyn Onlooker>>,
    peak: AtomicU64,
    ids: AtomicU64,
    log: Mutex<Option<Vec<Call>>>,
}

#[derive(Debug)]
pub(crate) struct Named<T> {
    raw: T,
    id: u64,
}

impl Watched {
    pub(crate) fn new(host: Host, ledger: &Ledger) -> Self {
        let [peak, ids] = [0, 0].map(AtomicU64::new);
        Self { host, ledger: ledger.clone(), onlooker: None, peak, ids, log: Mutex::new(None) }
    }

    pub(crate) fn shown_to(self, onlooker: impl Onlooker + 'static) -> Self {
        Self { onlooker: Some(Box::new(onlooker)), ..self }
    }

    /// The most bytes that existed after a call.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    pub(crate) const fn host(&self) -> &Host {
        &self.host
    }

    /// Calls since the last time this was asked; from now on they are written down.
    pub(crate) fn take_log(&self) -> Vec<Call> {
        self.log().replace(Vec::new()).unwrap_or_default()
    }

    fn log(&self) -> MutexGuard<'_, Option<Vec<Call>>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn named<T>(&self, raw: T) -> Named<T> {
        Named { raw, id: self.ids.fetch_add(1, Ordering::Relaxed) }
    }

    /// After a call: what exists was granted, and no more was granted than may be.
    fn check<T>(&self, name: &'static str, numbers: &[u64], outcome: T) -> T {
        let (exists, granted) = (self.host.usage().bytes, self.ledger.granted_bytes());
        let cap = self.ledger.cap_bytes();
        assert!(
            exists <= granted && granted <= cap,
            "{name}: {exists} bytes exist, {granted} granted of {cap}"
        );
        self.peak.fetch_max(exists, Ordering::Relaxed);
        if let Some(log) = &mut *self.log() {
            log.push(Call { name, numbers: numbers.to_vec(), launch: None });
        }
        outcome
    }
}

// SAFETY (of every unsafe call below): the caller's promise is handed on as it is.
impl Backend for Watched {
    type Stream = Named<HostStream>;
    type Event = Named<HostEvent>;
    type Flags = Named<HostFlags>;
    type Graph = HostGraph;

    fn info(&self) -> &Info {
        self.host.info()
    }

    fn reserve(&self, bytes: u64) -> Result<Address> {
        self.check("reserve", &[bytes], self.host.reserve(bytes))
    }

    unsafe fn unreserve(&self, address: Address, bytes: u64) -> Result<()> {
        // SAFETY: see above.
        self.check("unreserve", &[address.0, bytes], unsafe { self.host.unreserve(address, bytes) })
    }

    fn create(&self, bytes: u64) -> Result<ChunkId> {
        self.check("create", &[bytes], self.host.create(bytes))
    }

    unsafe fn destroy(&self, chunk: ChunkId) -> Result<()> {
        // SAFETY: see above.
        self.check("destroy", &[chunk.0], unsafe { self.host.destroy(chunk) })
    }

    unsafe fn map(&self, address: Address, chunk: ChunkId, bytes: u64) -> Result<()> {
        // SAFETY: see above.
        self.check("map", &[address.0, chunk.0, bytes], unsafe { self.host.map(address, chunk, bytes) })
    }

    unsafe fn set_access(&self, address: Address, bytes: u64) -> Result<()> {
        // SAFETY: see above.
        self.check("set_access", &[address.0, bytes], unsafe { self.host.set_access(address, bytes) })
    }

    unsafe fn unmap(&self, address: Address, bytes: u64) -> Result<()> {
        // SAFETY: see above.
        self.check("unmap", &[address.0, bytes], unsafe { self.host.unmap(address, bytes) })
    }

    fn pin(&self, bytes: u64) -> Result<Address> {
        self.check("pin", &[bytes], self.host.pin(bytes))
    }

    unsafe fn unpin(&self, address: Address, bytes: u64) -> Result<()> {
        // SAFETY: see above.
        self.check("unpin", &[address.0, bytes], unsafe { self.host.unpin(address, bytes) })
    }

    unsafe fn register(&self, first: Address, bytes: u64) -> Result<()> {
        // SAFETY: see above.
        self.check("register", &[first.0, bytes], unsafe { self.host.register(first, bytes) })
    }

    unsafe fn unregister(&self, first: Address, bytes: u64) -> Result<()> {
        // SAFETY: see above.
        self.check("unregister", &[first.0, bytes], unsafe { self.host.unregister(first, bytes) })
    }

    fn stream(&self, kind: StreamKind) -> Result<Self::Stream> {
        self.check("stream", &[], self.host.stream(kind)).map(|raw| self.named(raw))
    }

    fn event(&self) -> Result<Self::Event> {
        self.check("event", &[], self.host.event()).map(|raw| self.named(raw))
    }

    unsafe fn copy_from_host(
        &self,
        stream: &Self::Stream,
        target: Address,
        source: *const u8,
        bytes: u64,
        staged: bool,
    ) -> Result<()> {
        // SAFETY: see above.
        let outcome = unsafe { self.host.copy_from_host(&stream.raw, target, source, bytes, staged) };
        let numbers = [stream.id, target.0, source.addr() as u64, bytes, u64::from(staged)];
        self.check("copy_from_host", &numbers, outcome)
    }

    unsafe fn copy_to_host(
        &self,
        stream: &Self::Stream,
        target: *mut u8,
        source: Address,
        bytes: u64,
    ) -> Result<bool> {
        // SAFETY: see above.
        let outcome = unsafe { self.host.copy_to_host(&stream.raw, target, source, bytes) };
        self.check("copy_to_host", &[stream.id, source.0, bytes], outcome)
    }

    unsafe fn copy(&self, stream: &Self::Stream, target: Address, source: Address, bytes: u64) -> Result<()> {
        // SAFETY: see above.
        let outcome = unsafe { self.host.copy(&stream.raw, target, source, bytes) };
        self.check("copy", &[stream.id, target.0, source.0, bytes], outcome)
    }

    unsafe fn fill(&self, stream: &Self::Stream, target: Address, value: u8, bytes: u64) -> Result<()> {
        // SAFETY: see above.
        let outcome = unsafe { self.host.fill(&stream.raw, target, value, bytes) };
        self.check("fill", &[stream.id, target.0, u64::from(value), bytes], outcome)
    }

    unsafe fn launch<K: Kernel>(&self, stream: &Self::Stream, params: &K::Params) -> Result<()> {
        if let Some(onlooker) = &self.onlooker {
            self.host.synchronize(&stream.raw)?;
            onlooker.look(K::NAME, bytemuck::bytes_of(params));
        }
        // SAFETY: see above.
        let outcome = unsafe { self.host.launch::<K>(&stream.raw, params) };
        let outcome = self.check("launch", &[stream.id], outcome);
        if let Some(call) = self.log().as_mut().and_then(|log| log.last_mut()) {
            call.launch = Some((K::NAME, bytemuck::bytes_of(params).to_vec()));
        }
        outcome
    }

    fn record(&self, stream: &Self::Stream, event: &Self::Event) -> Result<()> {
        self.check("record", &[stream.id, event.id], self.host.record(&stream.raw, &event.raw))
    }

    fn wait(&self, stream: &Self::Stream, event: &Self::Event) -> Result<()> {
        self.check("wait", &[stream.id, event.id], self.host.wait(&stream.raw, &event.raw))
    }

    fn query(&self, event: &Self::Event) -> Result<bool> {
        self.check("query", &[event.id], self.host.query(&event.raw))
    }

    fn synchronize_event(&self, event: &Self::Event) -> Result<()> {
        self.check("synchronize_event", &[event.id], self.host.synchronize_event(&event.raw))
    }

    fn synchronize(&self, stream: &Self::Stream) -> Result<()> {
        self.check("synchronize", &[stream.id], self.host.synchronize(&stream.raw))
    }

    fn try_synchronize(&self, stream: &Self::Stream) -> Option<Result<()>> {
        self.check("synchronize", &[stream.id], self.host.try_synchronize(&stream.raw))
    }

    fn can_replay(&self) -> bool {
        self.host.can_replay()
    }

    fn flags(&self, count: usize, grant: Grant) -> Result<Self::Flags> {
        self.check("flags", &[count as u64], self.host.flags(count, grant)).map(|raw| self.named(raw))
    }

    fn raise(&self, stream: &Self::Stream, flags: &Self::Flags, index: usize) -> Result<()> {
        let outcome = self.host.raise(&stream.raw, &flags.raw, index);
        self.check("raise", &[stream.id, flags.id, index as u64], outcome)
    }

    fn take(&self, stream: &Self::Stream, flags: &Self::Flags, index: usize) -> Result<()> {
        let outcome = self.host.take(&stream.raw, &flags.raw, index);
        self.check("take", &[stream.id, flags.id, index as u64], outcome)
    }

    fn give_up(&self, flags: &Self::Flags, why: &str) {
        self.host.give_up(&flags.raw, why);
    }

    fn begin_graph(&self, stream: &Self::Stream) -> Result<()> {
        self.check("begin_graph", &[stream.id], self.host.begin_graph(&stream.raw))
    }

    fn end_graph(&self, stream: &Self::Stream) -> Result<HostGraph> {
        self.check("end_graph", &[stream.id], self.host.end_graph(&stream.raw))
    }

    unsafe fn replay(&self, stream: &Self::Stream, graph: &mut HostGraph) -> Result<()> {
        // SAFETY: see above.
        self.check("replay", &[stream.id], unsafe { self.host.replay(&stream.raw, graph) })
    }

    fn prefers_pinned(&self) -> bool {
        self.host.prefers_pinned()
    }
}
