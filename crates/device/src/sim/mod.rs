use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::space::{Space, Usage};
use crate::{Address, Backend, ChunkId, Error, Info, Kernel, Result, StreamKind};

/// How a [`Sim`] device is made.
#[derive(Clone, Copy, Debug)]
pub struct SimConfig {
    /// Page: a power of two.
    pub page_bytes: u64,
    /// Physical bytes that it has.
    pub capacity_bytes: u64,
}

impl Default for SimConfig {
    /// The pages of CUDA, 2 MiB, and more memory than any model needs.
    fn default() -> Self {
        Self { page_bytes: 2 << 20, capacity_bytes: 1 << 40 }
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
        self.copies += 1;
        self.bytes += bytes;
    }
}

/// A device without bytes: addresses are arithmetic, under the same rules and with the same errors as on [`Host`](crate::Host), and work is done as
/// soon as it is queued, by counting it.
///
/// The same calls give the same addresses, whatever the machine. Reads answer that there is nothing to read.
#[derive(Debug)]
pub struct Sim {
    info: Info,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    space: Space,
    /// The next free address: addresses are never used twice.
    next: u64,
    counters: SimCounters,
}

/// A stream of a [`Sim`]: its work is done as soon as it is queued.
#[derive(Debug)]
pub struct SimStream(());

/// An event of a [`Sim`]: always complete.
#[derive(Debug)]
pub struct SimEvent(());

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
        let SimConfig { page_bytes, capacity_bytes } = config;
        let info = Info { name: "sim".to_owned(), page_bytes, capacity_bytes, has_bytes: false };
        let state = State {
            space: Space::new(page_bytes, capacity_bytes),
            next: FIRST_ADDRESS.next_multiple_of(page_bytes),
            counters: SimCounters::default(),
        };
        Ok(Self { info, state: Mutex::new(state) })
    }

    /// What it was asked to do so far.
    #[must_use]
    pub fn counters(&self) -> SimCounters {
        self.state().counters
    }

    /// What exists now: zero when everything was given back.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.state().space.usage()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn info(&self) -> &Info {
        &self.info
    }

    fn reserve(&self, bytes: u64) -> Result<Address> {
        let State { space, next, .. } = &mut *self.state();
        space.reserve(bytes, || take(next, "reserve", self.info.page_bytes, bytes))
    }

    unsafe fn unreserve(&self, address: Address, bytes: u64) -> Result<()> {
        self.state().space.unreserve(address, bytes, || Ok(()))
    }

    fn create(&self, bytes: u64) -> Result<ChunkId> {
        self.state().space.create(bytes, |_| Ok(()))
    }

    unsafe fn destroy(&self, chunk: ChunkId) -> Result<()> {
        self.state().space.destroy(chunk).map(drop)
    }

    unsafe fn map(&self, address: Address, chunk: ChunkId, bytes: u64) -> Result<()> {
        self.state().space.map(address, chunk, bytes, |_| Ok(()))
    }

    unsafe fn set_access(&self, address: Address, bytes: u64) -> Result<()> {
        self.state().space.set_access(address, bytes, || Ok(()))
    }

    unsafe fn unmap(&self, address: Address, bytes: u64) -> Result<()> {
        self.state().space.unmap(address, bytes, || Ok(())).map(drop)
    }

    fn pin(&self, bytes: u64) -> Result<Address> {
        let State { space, next, .. } = &mut *self.state();
        space.pin(bytes, || take(next, "pin", self.info.page_bytes, bytes.max(1)))
    }

    unsafe fn unpin(&self, address: Address, bytes: u64) -> Result<()> {
        self.state().space.unpin(address, bytes, || Ok(()))
    }

    fn stream(&self, _kind: StreamKind) -> Result<SimStream> {
        Ok(SimStream(()))
    }

    fn event(&self) -> Result<SimEvent> {
        Ok(SimEvent(()))
    }

    unsafe fn copy_from_host(
        &self,
        _stream: &SimStream,
        target: Address,
        _source: *const u8,
        bytes: u64,
        _staged: bool,
    ) -> Result<()> {
        let mut state = self.state();
        state.space.accessible("copy_from_host", target, bytes)?;
        state.counters.to_device.count(bytes);
        Ok(())
    }

    unsafe fn copy_to_host(
        &self,
        _stream: &SimStream,
        _target: *mut u8,
        source: Address,
        bytes: u64,
    ) -> Result<bool> {
        let mut state = self.state();
        state.space.accessible("copy_to_host", source, bytes)?;
        state.counters.to_host.count(bytes);
        Ok(false)
    }

    unsafe fn copy(&self, _stream: &SimStream, target: Address, source: Address, bytes: u64) -> Result<()> {
        let mut state = self.state();
        state.space.accessible("copy", target, bytes)?;
        state.space.accessible("copy", source, bytes)?;
        state.counters.on_device.count(bytes);
        Ok(())
    }

    unsafe fn fill(&self, _stream: &SimStream, target: Address, _value: u8, bytes: u64) -> Result<()> {
        let mut state = self.state();
        state.space.accessible("fill", target, bytes)?;
        state.counters.on_device.count(bytes);
        Ok(())
    }

    unsafe fn launch<K: Kernel>(&self, _stream: &SimStream, params: &K::Params) -> Result<()> {
        let cost = K::cost(params);
        let counters = &mut self.state().counters;
        counters.launches += 1;
        counters.flops += cost.flops;
        counters.bytes += cost.bytes;
        Ok(())
    }

    fn record(&self, _stream: &SimStream, _event: &SimEvent) -> Result<()> {
        Ok(())
    }

    fn wait(&self, _stream: &SimStream, _event: &SimEvent) -> Result<()> {
        Ok(())
    }

    fn query(&self, _event: &SimEvent) -> Result<bool> {
        Ok(true)
    }

    fn synchronize_event(&self, _event: &SimEvent) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self, _stream: &SimStream) -> Result<()> {
        Ok(())
    }
}
