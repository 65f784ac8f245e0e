//! The virtual clock of `Sim`, through the shells that programs use.

use lighterage_device::{
    Backend, Cost, Device, Kernel, Ledger, MemoryCosts, Pinned, Profile, Purpose, Rates, Reservation, Result,
    Sim, SimConfig, Stream, StreamKind, Workers,
};

/// A kernel of so many FLOPs, as its only parameter.
struct Busy;

impl Kernel for Busy {
    type Params = f64;
    const NAME: &'static str = "linear_bf16";
    unsafe fn host(_: &f64, _: &Workers) {}
    fn cost(flops: &f64) -> Cost {
        Cost { flops: *flops, bytes: 0.0 }
    }
}

/// One second is a FLOP, and a byte over the link is a millisecond: numbers that can be read.
const RATES: Rates = Rates {
    product_flops: 1.0,
    attention_flops: 1.0,
    vector_flops: 1.0,
    memory_bytes: 1e12,
    link_bytes: 1e3,
    pageable_bytes: 1e2,
    lock_bytes: f64::INFINITY,
    read_bytes: f64::INFINITY,
    launch_seconds: 0.0,
    copy_seconds: 0.0,
    call_seconds: 0.0,
    slowdown: 0.0,
    memory_calls: MemoryCosts::FREE,
};

struct Bench {
    device: Device<Sim>,
    compute: Stream<Sim>,
    copies: Stream<Sim>,
    memory: Reservation<Sim>,
    pinned: Pinned<Sim>,
}

impl Bench {
    fn new(rates: Rates) -> Result<Self> {
        let sim = Sim::new(SimConfig { page_bytes: 4096, rates: Some(rates), ..SimConfig::default() })?;
        let device = Device::new(sim, Ledger::new(1 << 20), Ledger::new(1 << 20));
        let memory = device.reserve(4096)?;
        memory.map(0, &device.create(Purpose::Activations, 4096)?)?;
        memory.set_access(0, 4096)?;
        let (compute, copies) = (device.stream(StreamKind::Compute)?, device.stream(StreamKind::Copy)?);
        let pinned = device.pin(4096)?;
        Ok(Self { device, compute, copies, memory, pinned })
    }

    fn launch(&self, seconds: f64) -> Result<()> {
        // SAFETY: the kernel touches nothing.
        unsafe { self.compute.launch::<Busy>(&seconds) }
    }

    fn copy(&self, bytes: u64, source: *const u8) -> Result<()> {
        // SAFETY: the target is mapped; `Sim` reads nothing.
        unsafe { self.copies.copy_from_host(self.memory.address(), source, bytes) }
    }

    fn pinned(&self) -> *const u8 {
        std::ptr::without_provenance(usize::try_from(self.pinned.address().0).unwrap_or(0))
    }

    fn check(&self, seconds: f64) {
        let now = self.device.backend().now_seconds();
        assert!((now - seconds).abs() < 1e-9, "{now} s, expected {seconds} s");
    }
}

#[test]
fn launches_return_at_once_and_waiting_takes_their_time() -> Result<()> {
    let bench = Bench::new(RATES)?;
    bench.launch(2.0)?;
    let event = bench.device.event()?;
    bench.compute.record(&event)?;
    bench.launch(3.0)?;
    bench.check(0.0);
    assert!(!event.is_complete()?);
    event.synchronize()?;
    bench.check(2.0);
    assert!(event.is_complete()?);
    bench.compute.synchronize()?;
    bench.check(5.0);
    Ok(())
}

#[test]
fn copies_run_beside_kernels_until_an_event_orders_them() -> Result<()> {
    let bench = Bench::new(RATES)?;
    let (arrived, done) = (bench.device.event()?, bench.device.event()?);
    bench.copy(1000, bench.pinned())?;
    bench.copies.record(&arrived)?;
    bench.launch(0.25)?;
    bench.compute.wait(&arrived)?;
    bench.launch(0.5)?;
    bench.compute.record(&done)?;
    bench.copies.wait(&done)?;
    bench.copy(1000, bench.pinned())?;
    bench.copies.synchronize()?;
    bench.check(1.0 + 0.5 + 1.0);
    Ok(())
}

#[test]
fn pageable_memory_is_slower() -> Result<()> {
    let bench = Bench::new(RATES)?;
    bench.copy(1000, std::ptr::without_provenance(64))?;
    bench.copies.synchronize()?;
    bench.check(10.0);
    bench.copy(4096, bench.pinned())?;
    bench.copies.synchronize()?;
    bench.check(10.0 + 4.096);
    Ok(())
}

#[test]
fn every_call_takes_the_host_a_moment() -> Result<()> {
    let bench = Bench::new(Rates { call_seconds: 0.25, ..RATES })?;
    let event = bench.device.event()?;
    bench.launch(1.0)?;
    bench.compute.record(&event)?;
    // Asking takes time too, so whoever asks often enough is told yes.
    let asked = (1..).find(|_| event.is_complete().unwrap());
    assert_eq!(asked, Some(3));
    bench.check(0.25 * 5.0);
    assert_eq!(bench.device.backend().modelled().unwrap().host_seconds, 1.25);
    assert_eq!(bench.device.backend().modelled().unwrap().compute_seconds, 1.0);
    Ok(())
}

#[test]
fn page_locking_and_filling_take_the_host_their_time() -> Result<()> {
    let bench = Bench::new(Rates { lock_bytes: 64.0, read_bytes: 128.0, ..RATES })?;
    let before = bench.device.backend().now_seconds();
    bench.launch(1.0)?;
    let pinned = bench.device.pin(256)?;
    bench.device.backend().filled(256);
    assert_eq!(bench.device.backend().now_seconds() - before, 4.0 + 2.0);
    // The launch went on meanwhile.
    bench.check(before + 6.0);
    drop(pinned);
    Ok(())
}

#[test]
fn without_rates_nothing_takes_time() -> Result<()> {
    let device = Device::new(Sim::new(SimConfig::default())?, Ledger::new(0), Ledger::new(0));
    let (stream, event) = (device.stream(StreamKind::Compute)?, device.event()?);
    // SAFETY: the kernel touches nothing.
    unsafe { stream.launch::<Busy>(&1e9) }?;
    stream.record(&event)?;
    assert!(event.is_complete()?);
    stream.synchronize()?;
    assert_eq!((device.backend().now_seconds(), device.backend().modelled()), (0.0, None));
    Ok(())
}

#[test]
fn every_profile_is_a_card() {
    for profile in Profile::all() {
        let Rates { product_flops, attention_flops, link_bytes, memory_bytes, .. } = profile.rates;
        assert!(product_flops > attention_flops && attention_flops > 1e13, "{profile:?}");
        assert!((2e10..1e11).contains(&link_bytes) && memory_bytes > 10.0 * link_bytes, "{profile:?}");
        assert_eq!(Profile::named(&profile.name), Some(profile));
    }
}
