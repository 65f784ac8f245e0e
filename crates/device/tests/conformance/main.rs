//! What every backend promises, written once and run over all of them: `Host` with 1, 2 and 4 threads, `Host` seeded, `Sim` where it has an answer, and `Cuda`
//! where there is a device. With feature `emu` there always is one: the stand-in of `crates/fakecuda`.
#![expect(clippy::unwrap_used, reason = "a test that fails")]
#![expect(clippy::print_stdout, reason = "shown by the test harness when a test fails")]

mod cuda;
mod faults;
mod graphs;
mod memory;
mod races;
mod streams;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytemuck::{Pod, Zeroable};
use lighterage_device::{
    Address, Backend, Chunk, Cost, Cuda, Device, Host, HostConfig, Kernel, Launches, Ledger, Purpose,
    Reservation, Result, Sim, SimConfig, Stream, Target, Usage, View, Workers,
};
use lighterage_kernels::base::self_test::{self, SelfTestParams};
use lighterage_shape::{DType, Layout};

/// Seeds of the seeded mode that every check runs under.
const SEEDS: u64 = 8;
const CAPACITY: u64 = 64 << 20;

/// A backend that says what is left.
trait Inspect: Backend {
    fn usage(&self) -> Usage;
}

impl Inspect for Host {
    fn usage(&self) -> Usage {
        Host::usage(self)
    }
}

impl Inspect for Sim {
    fn usage(&self) -> Usage {
        Sim::usage(self)
    }
}

impl Inspect for Cuda {
    fn usage(&self) -> Usage {
        Cuda::usage(self)
    }
}

/// A check, for any backend.
trait Check {
    fn check<B: Inspect>(&self, device: &Device<B>);
}

/// Runs a check on every kind of device; each must be empty afterwards.
fn everywhere(check: &impl Check) {
    if let Some(cuda) = cuda::device() {
        on(cuda, check);
    }
    on_hosts(check);
    on(Sim::new(SimConfig { capacity_bytes: CAPACITY, ..SimConfig::default() }).unwrap(), check);
}

fn on_hosts(check: &impl Check) {
    // A run on the stand-in has been on the hosts already.
    if cuda::is_inside() {
        return;
    }
    for config in threaded().into_iter().chain((0..SEEDS).map(seeded)) {
        on(Host::new(config).unwrap(), check);
    }
}

fn on<B: Inspect>(backend: B, check: &impl Check) {
    let device = Device::new(backend, Ledger::new(CAPACITY), Ledger::new(CAPACITY));
    println!("{}", device.info().name);
    check.check(&device);
    assert_empty(&device);
    device.take_deferred().unwrap();
}

fn assert_empty<B: Inspect>(device: &Device<B>) {
    assert_eq!(device.backend().usage(), Usage::default(), "{}", device.info().name);
    assert_eq!((device.ledger().granted_bytes(), device.host_ledger().granted_bytes()), (0, 0));
}

fn threaded() -> Vec<HostConfig> {
    [1, 2, 4].map(|threads| HostConfig { threads, capacity_bytes: CAPACITY, ..HostConfig::default() }).into()
}

fn seeded(seed: u64) -> HostConfig {
    HostConfig { seed: Some(seed), capacity_bytes: CAPACITY, ..HostConfig::default() }
}

fn host(config: HostConfig) -> Device<Host> {
    Device::new(Host::new(config).unwrap(), Ledger::new(CAPACITY), Ledger::new(CAPACITY))
}

/// Device memory of some pages, mapped and accessible.
struct Memory<B: Backend> {
    range: Reservation<B>,
}

impl<B: Backend> Memory<B> {
    fn new(device: &Device<B>, pages: u64) -> Self {
        let range = device.reserve(pages * device.info().page_bytes).unwrap();
        range.map(0, &chunk(device, pages)).unwrap();
        range.set_access(0, range.bytes()).unwrap();
        Self { range }
    }

    /// Four floats at the start of a page, for work on one stream.
    fn floats(&self, stream: &Stream<B>, page: u64) -> View<'_> {
        let address = self.range.address().offset(page * stream.device().info().page_bytes);
        floats_at(address, stream)
    }
}

fn chunk<B: Backend>(device: &Device<B>, pages: u64) -> Arc<Chunk<B>> {
    chunk_of(device, pages).unwrap()
}

fn chunk_of<B: Backend>(device: &Device<B>, pages: u64) -> Result<Arc<Chunk<B>>> {
    device.create(Purpose::Activations, pages * device.info().page_bytes)
}

fn floats_at<'a, B: Backend>(address: Address, stream: &Stream<B>) -> View<'a> {
    // SAFETY: the tests map what they view, wait for their streams before they unmap it, and order streams by events; those that do not
    // order them run on the seeded mode, which has one thread.
    unsafe { View::new(address, Layout::contiguous(DType::F32, &[4]), stream.id()) }
}

/// Launches a test kernel.
fn launch<K: Kernel, B: Backend>(stream: &Stream<B>, params: &K::Params) -> Result<()> {
    // SAFETY: the kernels of the tests touch four floats at the addresses of mapped views.
    unsafe { stream.launch::<K>(params) }
}

/// `target[i] = source[i] + 1`.
struct AddOne;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Ends {
    target: u64,
    source: u64,
}

impl Ends {
    fn new(target: View<'_>, source: View<'_>) -> Self {
        Self { target: target.address().0, source: source.address().0 }
    }
}

impl Kernel for AddOne {
    type Params = Ends;
    const NAME: &'static str = "add_one";

    unsafe fn host(params: &Ends, workers: &Workers) {
        let params = *params;
        workers.for_each(4, move |index| {
            let at = |address: u64| {
                std::ptr::with_exposed_provenance_mut::<f32>(usize::try_from(address).unwrap())
            };
            // SAFETY: four floats are mapped at either address.
            let source = unsafe { at(params.source).add(index) };
            // SAFETY: as above.
            let target = unsafe { at(params.target).add(index) };
            // SAFETY: the stream orders this kernel after what writes the source.
            let value = unsafe { source.read() };
            // SAFETY: no other task writes this element.
            unsafe { target.write(value + 1.0) };
        });
    }

    fn cost(_: &Ends) -> Cost {
        Cost { flops: 4.0, bytes: 32.0 }
    }

    fn launches(params: &Ends, target: Target) -> Launches {
        let Ends { target: to, source } = *params;
        self_test::launches(&SelfTestParams { target: to, source }, target)
    }
}

/// Waits until its gate is open, then counts itself.
struct Gated;

/// One for each test that uses one: tests run side by side.
static GATES: [Gate; 8] = [const { Gate { open: AtomicBool::new(false), passed: AtomicU64::new(0) } }; 8];

struct Gate {
    open: AtomicBool,
    passed: AtomicU64,
}

impl Gate {
    fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
        self.passed.store(0, Ordering::SeqCst);
    }

    fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }
}

impl Kernel for Gated {
    type Params = u64;
    const NAME: &'static str = "gated";

    unsafe fn host(gate: &u64, _: &Workers) {
        let gate = &GATES[usize::try_from(*gate).unwrap()];
        while !gate.open.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_micros(100));
        }
        gate.passed.fetch_add(1, Ordering::SeqCst);
    }

    fn cost(_: &u64) -> Cost {
        Cost::default()
    }
}

/// Panics.
struct Broken;

impl Kernel for Broken {
    type Params = u64;
    const NAME: &'static str = "broken";

    unsafe fn host(number: &u64, workers: &Workers) {
        workers.for_each(4, |_| panic!("number {number}"));
    }

    fn cost(_: &u64) -> Cost {
        Cost::default()
    }
}
