//! The pool on devices, against a plain model of who holds which bytes.
#![expect(clippy::unwrap_used, reason = "a test fails where it should not")]

use lighterage_allocator::{
    ALIGNMENT_BYTES, Allocator, Buffer, Config, Error, Pool, Settings, Statistics, Tag,
};
use lighterage_device::{
    Backend, Device, Host, HostConfig, Ledger, Purpose, Sim, SimConfig, Stream, StreamKind, Usage, View,
};
use lighterage_shape::{DType, Layout};
use lighterage_testkit::Rng;

const PAGE: u64 = 4096;
/// What is uploaded: eight pages.
static DATA: [u8; 8 * 4096] = [7; 8 * 4096];
const RESERVE: u64 = 128 * PAGE;

fn host(seed: Option<u64>, fail_call: Option<u64>) -> Host {
    let config = HostConfig { page_bytes: PAGE, threads: 1, seed, fail_call, ..HostConfig::default() };
    Host::new(config).unwrap()
}

fn sim() -> Sim {
    Sim::new(SimConfig { page_bytes: PAGE, ..SimConfig::default() }).unwrap()
}

fn pool<B: Backend>(backend: B, cap: u64) -> (Device<B>, Stream<B>, Pool<B>) {
    let device = Device::new(backend, Ledger::new(cap), Ledger::new(0));
    let stream = device.stream(StreamKind::Compute).unwrap();
    let pool = Pool::new(&stream, Config { purpose: Purpose::Activations, reserve_bytes: RESERVE }).unwrap();
    (device, stream, pool)
}

/// What the pool should say: live ranges, and whether each page has memory.
#[derive(Default)]
struct Model {
    live: Vec<(u64, u64)>,
    pages: Vec<bool>,
    expected: Statistics,
}

impl Model {
    fn new() -> Self {
        Self { pages: vec![false; usize::try_from(RESERVE / PAGE).unwrap()], ..Self::default() }
    }

    /// The lowest of the shortest gaps that hold `bytes`.
    fn place(&self, bytes: u64) -> Option<u64> {
        let mut live = self.live.clone();
        live.sort_unstable();
        let starts = std::iter::once(0).chain(live.iter().map(|(offset, bytes)| offset + bytes));
        let ends = live.iter().map(|(offset, _)| *offset).chain([RESERVE]);
        let gaps = starts.zip(ends).filter(|(start, end)| end - start >= bytes);
        gaps.min_by_key(|(start, end)| (end - start, *start)).map(|(start, _)| start)
    }

    fn touched(offset: u64, bytes: u64) -> std::ops::Range<usize> {
        let index = |page| usize::try_from(page).unwrap();
        index(offset / PAGE)..index((offset + bytes).div_ceil(PAGE))
    }

    fn allocate(&mut self, offset: u64, bytes: u64) {
        self.live.push((offset, bytes));
        self.pages[Self::touched(offset, bytes)].fill(true);
        self.expected.allocations += 1;
        self.count();
    }

    fn free(&mut self, index: usize) {
        self.live.swap_remove(index);
        self.count();
    }

    fn trim(&mut self) {
        let mut used = vec![false; self.pages.len()];
        for (offset, bytes) in &self.live {
            used[Self::touched(*offset, *bytes)].fill(true);
        }
        self.pages.iter_mut().zip(used).for_each(|(page, used)| *page &= used);
        self.count();
    }

    fn count(&mut self) {
        let expected = &mut self.expected;
        expected.allocated_bytes = self.live.iter().map(|(_, bytes)| bytes).sum();
        expected.reserved_bytes = self.pages.iter().filter(|page| **page).count() as u64 * PAGE;
        expected.allocated_peak_bytes = expected.allocated_peak_bytes.max(expected.allocated_bytes);
        expected.reserved_peak_bytes = expected.reserved_peak_bytes.max(expected.reserved_bytes);
    }

    fn reset_peaks(&mut self) {
        self.expected.allocated_peak_bytes = 0;
        self.expected.reserved_peak_bytes = 0;
        self.count();
    }
}

/// Sizes as models have them: many small ones, some of several pages.
fn size(rng: &mut Rng) -> u64 {
    if rng.below(3) == 0 { 1 + rng.below(12 * PAGE) } else { 1 + rng.below(2000) }
}

/// A random sequence of calls; every offset and every counter is the model's. Returns the offsets and the last counters.
fn check_against_model<B: Backend>(backend: B, seed: u64) -> (Vec<u64>, Statistics) {
    let mut rng = Rng::from_env(seed);
    let (device, _stream, pool) = pool(backend, RESERVE);
    let (mut model, mut buffers, mut offsets) = (Model::new(), Vec::<Buffer<B>>::new(), Vec::new());
    for step in 0..1500 {
        match rng.below(20) {
            0 => {
                let before = model.expected.reserved_bytes;
                model.trim();
                assert_eq!(pool.trim().unwrap(), before - model.expected.reserved_bytes, "step {step}");
            }
            1 => {
                pool.reset_peaks();
                model.reset_peaks();
            }
            2..=11 => {
                let bytes = size(&mut rng);
                let rounded = bytes.next_multiple_of(ALIGNMENT_BYTES);
                let expected = model.place(rounded);
                let got = pool.allocate(bytes, "test").ok();
                assert_eq!(got.as_ref().map(Buffer::offset), expected, "step {step}: {bytes} bytes");
                if let Some(buffer) = got {
                    assert_eq!((buffer.bytes(), buffer.address().0 % ALIGNMENT_BYTES), (bytes, 0));
                    model.allocate(buffer.offset(), rounded);
                    offsets.push(buffer.offset());
                    buffers.push(buffer);
                }
            }
            _ if buffers.is_empty() => (),
            _ => {
                let index = usize::try_from(rng.below(buffers.len() as u64)).unwrap();
                drop(buffers.swap_remove(index));
                model.free(index);
            }
        }
        assert_eq!(pool.statistics(), model.expected, "step {step}");
        assert_eq!(device.ledger().granted_for(Purpose::Activations), model.expected.reserved_bytes);
    }
    (offsets, pool.statistics())
}

#[test]
fn every_call_agrees_with_the_model_and_every_device_with_every_other() {
    for seed in 0..8 {
        let on_sim = check_against_model(sim(), seed);
        assert_eq!(on_sim, check_against_model(host(None, None), seed));
        assert_eq!(on_sim, check_against_model(sim(), seed), "the same seed again");
    }
}

fn view<B: Backend>(buffer: &Buffer<B>) -> View<'_> {
    let layout = Layout::contiguous(DType::U8, &[usize::try_from(buffer.bytes()).unwrap()]);
    // SAFETY: the buffer has that many bytes, and work on it is ordered by its owner.
    unsafe { View::new(buffer.address(), layout, buffer.owner()) }
}

/// Each buffer is filled with a byte of its own, asynchronously, and found unchanged just before it is dropped.
fn check_contents(rng_seed: u64, host_seed: Option<u64>) {
    let mut rng = Rng::from_env(rng_seed);
    let (_device, stream, pool) = pool(host(host_seed, None), RESERVE);
    let mut live: Vec<(Buffer<Host>, u8)> = Vec::new();
    for step in 0..400 {
        match rng.below(8) {
            0 => drop(pool.trim().unwrap()),
            1..5 => {
                let Ok(buffer) = pool.allocate(size(&mut rng), "test") else { continue };
                let value = u8::try_from(step % 251).unwrap();
                stream.fill(view(&buffer), value).unwrap();
                live.push((buffer, value));
            }
            _ if live.is_empty() => (),
            _ => {
                let (buffer, value) =
                    live.swap_remove(usize::try_from(rng.below(live.len() as u64)).unwrap());
                let bytes: Vec<u8> = stream.read(view(&buffer)).unwrap().unwrap();
                assert!(
                    bytes.iter().all(|byte| *byte == value),
                    "step {step}: buffer at {}",
                    buffer.offset()
                );
            }
        }
    }
}

#[test]
fn buffers_keep_their_bytes() {
    check_contents(21, None);
    for seed in 0..5 {
        check_contents(seed, Some(seed));
    }
}

#[test]
fn memory_of_a_dropped_buffer_is_used_by_later_work_only() {
    let (_device, stream, pool) = pool(host(None, None), RESERVE);
    let kept = pool.allocate(PAGE, "kept").unwrap();
    let first = pool.allocate(PAGE, "first").unwrap();
    stream.fill(view(&first), 1).unwrap();
    stream.copy(view(&kept), view(&first)).unwrap();
    let place = first.offset();
    drop(first);
    let second = pool.allocate(PAGE, "second").unwrap();
    assert_eq!(second.offset(), place);
    stream.fill(view(&second), 2).unwrap();
    assert_eq!(stream.read::<u8>(view(&kept)).unwrap().unwrap(), vec![1; usize::try_from(PAGE).unwrap()]);
}

#[test]
fn refusal_names_the_numbers_and_leaves_the_pool_usable() {
    let (device, _stream, pool) = pool(sim(), 4 * PAGE);
    let _hidden = pool.allocate(2 * PAGE, "hidden").unwrap();
    let query = pool.allocate(PAGE, "query").unwrap();
    let Err(Error::OutOfMemory(report)) = pool.allocate(2 * PAGE, "key") else { panic!("there are 4 pages") };
    assert_eq!(
        (report.requested, report.allocated, report.reserved, report.cap),
        (2 * PAGE, 3 * PAGE, 3 * PAGE, 4 * PAGE)
    );
    assert_eq!(report.tags, [("hidden", 2 * PAGE), ("query", PAGE)]);
    assert!(matches!(report.cause, Some(lighterage_device::Error::OutOfBudget(_))));
    assert_eq!(
        device.ledger().granted_bytes(),
        3 * PAGE,
        "the page that was mapped for the request is given back"
    );
    drop(query);
    assert_eq!(pool.allocate(2 * PAGE, "key").unwrap().offset(), 2 * PAGE);
}

#[test]
fn pages_that_hold_nothing_make_room_before_a_request_is_refused() {
    let (_device, _stream, pool) = pool(sim(), 4 * PAGE);
    let [low, high] = [3 * PAGE, PAGE].map(|bytes| pool.allocate(bytes, "test").unwrap());
    drop(low);
    // Four free pages behind `high`, none of them mapped; three mapped ones below it are too few.
    let refused = pool.allocate(4 * PAGE, "too much");
    assert!(refused.is_err());
    assert_eq!(pool.statistics().reserved_bytes, PAGE, "the three were given back for the try");
    let moved = pool.allocate(3 * PAGE, "fits").unwrap();
    assert_eq!(moved.offset(), 0);
    drop((high, moved));
    assert_eq!(pool.allocate(4 * PAGE, "all").unwrap().offset(), 0);
}

#[test]
fn requests_beyond_the_addresses_are_refused() {
    let (_device, _stream, pool) = pool(sim(), u64::MAX);
    for bytes in [RESERVE + 1, u64::MAX - 1000, u64::MAX] {
        let Err(Error::OutOfMemory(report)) = pool.allocate(bytes, "huge") else {
            panic!("{bytes} bytes allocated")
        };
        assert_eq!((report.requested, report.largest_free, report.cause), (bytes, RESERVE, None));
    }
    assert!(pool.allocate(RESERVE, "all of it").is_ok());
    assert_eq!(pool.allocate(0, "nothing").unwrap().bytes(), 0);
}

#[test]
fn the_device_may_have_less_than_the_ledger_grants() {
    let backend =
        Sim::new(SimConfig { page_bytes: PAGE, capacity_bytes: 2 * PAGE, ..SimConfig::default() }).unwrap();
    let (device, _stream, pool) = pool(backend, RESERVE);
    let Err(Error::OutOfMemory(report)) = pool.allocate(3 * PAGE, "test") else {
        panic!("there are 2 pages")
    };
    assert!(matches!(report.cause, Some(lighterage_device::Error::OutOfMemory { .. })));
    assert_eq!(device.ledger().granted_bytes(), 0);
    assert!(pool.allocate(2 * PAGE, "test").is_ok());
}

#[test]
fn memory_goes_with_the_last_buffer() {
    let (device, stream, pool) = pool(host(None, None), RESERVE);
    let buffer = pool.allocate(PAGE, "test").unwrap();
    drop(pool);
    stream.fill(view(&buffer), 7).unwrap();
    assert_eq!(stream.read::<u8>(view(&buffer)).unwrap().unwrap()[0], 7);
    assert_eq!(device.ledger().granted_bytes(), PAGE);
    drop(buffer);
    assert_eq!(device.ledger().granted_bytes(), 0);
}

#[test]
fn threads_share_a_pool() {
    let (_device, _stream, pool) = pool(sim(), RESERVE);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let pool = pool.clone();
            scope.spawn(move || {
                let mut rng = Rng::new(seed);
                let mut held = std::collections::VecDeque::new();
                for _ in 0..500 {
                    held.push_back(pool.allocate(1 + rng.below(2 * PAGE), "test").unwrap());
                    if held.len() > 10 {
                        held.pop_front();
                    }
                }
            });
        }
    });
    let Statistics { allocated_bytes, allocations, .. } = pool.statistics();
    assert_eq!((allocated_bytes, allocations), (0, 2000));
    assert_eq!(pool.allocate(RESERVE, "all of it").unwrap().offset(), 0, "every range was joined again");
}

#[test]
fn every_failing_driver_call_is_survived() {
    let mut failures = 0;
    for n in 1.. {
        let device = Device::new(host(Some(n), Some(n)), Ledger::new(RESERVE), Ledger::new(0));
        let stream = device.stream(StreamKind::Compute).unwrap();
        failures += u32::from(survives(&stream, n));
        failures += u32::from(device.take_deferred().is_err());
        assert_eq!(device.ledger().granted_bytes(), 0, "call {n}");
        if device.backend().driver_calls() <= n {
            break;
        }
    }
    assert!(failures > 10, "only {failures} failures were seen");
}

/// Allocates, trims and allocates again; every call that fails is made once more and works then. Whether one failed.
fn survives(stream: &Stream<Host>, n: u64) -> bool {
    let config = Config { purpose: Purpose::Activations, reserve_bytes: RESERVE };
    let mut failed = false;
    let pool = twice(&mut failed, n, || Pool::new(stream, config));
    let books = |pool: &Pool<Host>| {
        let granted = stream.device().ledger().granted_for(Purpose::Activations);
        assert_eq!(pool.statistics().reserved_bytes, granted, "call {n}");
    };
    let allocate = |pages: u64, failed: &mut bool| {
        let buffer = twice(failed, n, || pool.allocate(pages * PAGE, "test"));
        books(&pool);
        buffer
    };
    let first = allocate(3, &mut failed);
    let second = allocate(2, &mut failed);
    drop(first);
    twice(&mut failed, n, || pool.trim());
    let third = allocate(4, &mut failed);
    assert_eq!(
        (second.offset(), third.offset(), pool.statistics().reserved_bytes),
        (3 * PAGE, 5 * PAGE, 6 * PAGE)
    );
    failed
}

fn twice<T>(failed: &mut bool, n: u64, call: impl Fn() -> lighterage_allocator::Result<T>) -> T {
    call().unwrap_or_else(|_| {
        *failed = true;
        call().unwrap_or_else(|error| panic!("call {n} failed once, and then again: {error}"))
    })
}

/// Something else on the same ledger that gives a page at a time.
#[test]
fn a_pool_asks_for_what_is_missing_and_tries_again() {
    let (device, _stream, pool) = pool(host(Some(3), None), 8 * PAGE);
    let others = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    for _ in 0..6 {
        others.lock().unwrap().push(device.create(Purpose::Resident, PAGE).unwrap());
    }
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let (given, noted, inner) = (others.clone(), asked.clone(), pool.clone());
    let registration = pool.on_pressure(0, move |need: lighterage_allocator::Need| {
        noted.lock().unwrap().push(need.bytes);
        assert!(matches!(inner.allocate(1, "inside"), Err(Error::Reentrant { .. })));
        given.lock().unwrap().pop().map_or(0, |chunk| chunk.bytes())
    });
    let first = pool.allocate(2 * PAGE, "fits").unwrap();
    assert!(asked.lock().unwrap().is_empty());
    let second = pool.allocate(3 * PAGE, "three pages are missing").unwrap();
    assert_eq!(*asked.lock().unwrap(), [3 * PAGE, 2 * PAGE, PAGE]);
    assert!(matches!(pool.allocate(9 * PAGE, "never"), Err(Error::OutOfMemory(_))));
    assert!(others.lock().unwrap().is_empty());
    drop((first, second, registration));
    asked.lock().unwrap().clear();
    assert!(pool.allocate(9 * PAGE, "nobody is left to ask").is_err());
    assert!(asked.lock().unwrap().is_empty());
}

/// What of a device's memory there is while its stream records, in which the last owner goes, and behind that.
fn memory_beside_a_recording<B: Backend>(
    device: &Device<B>,
    stream: &Stream<B>,
    last_owner: impl FnOnce(),
) -> [u64; 2] {
    let mut meanwhile = 0;
    let recorded = stream.capture(|| {
        last_owner();
        meanwhile = device.ledger().granted_bytes();
        Ok(())
    });
    recorded.expect("nothing is wrong with the recording");
    [meanwhile, device.ledger().granted_bytes()]
}

/// While a stream records nobody can wait for what was queued before.
#[test]
fn a_pool_that_goes_while_its_stream_records_leaves_its_memory_to_queued_work() {
    let slow = HostConfig { page_bytes: PAGE, link_bytes_per_second: Some(1e6), ..HostConfig::default() };
    let (device, stream, pool) = pool(Host::new(slow).unwrap(), RESERVE);
    let buffer = pool.allocate(8 * PAGE, "under way").unwrap();
    // Takes 32 ms.
    stream.upload(view(&buffer), &DATA).unwrap();
    drop(buffer);
    assert_eq!(memory_beside_a_recording(&device, &stream, || drop(pool)), [8 * PAGE, 0]);
    assert_eq!(device.backend().usage(), Usage::default());
    stream.synchronize().unwrap();
}

/// As above, where one of two streams records.
#[test]
fn an_allocator_that_goes_while_a_stream_records_leaves_its_memory_to_queued_work() {
    let slow = HostConfig { link_bytes_per_second: Some(1e6), ..HostConfig::default() };
    let device = Device::new(Host::new(slow).unwrap(), Ledger::new(1 << 30), Ledger::new(0));
    let allocator = Allocator::new(&device, Settings::default()).unwrap();
    let [stream, other] = [(); 2].map(|()| device.stream(StreamKind::Compute).unwrap());
    let (on, on_other) = (allocator.on(&stream).unwrap(), allocator.on(&other).unwrap());
    on_other.allocate(8 * PAGE, Tag::NONE).unwrap();
    let handle = on.allocate(8 * PAGE, Tag::NONE).unwrap();
    let bytes = Layout::contiguous(DType::U8, &[DATA.len()]);
    // SAFETY: the handle has that many bytes, and its memory stays until the stream, whose own it is, has done what is queued here.
    let memory = unsafe { View::new(handle.address(), bytes, stream.id()) };
    stream.upload(memory, &DATA).unwrap();
    let granted = device.ledger().granted_bytes();
    let last_owner = || drop((on, on_other, allocator));
    assert_eq!(memory_beside_a_recording(&device, &stream, last_owner), [granted, 0]);
    assert!(granted > 0);
    assert_eq!(device.backend().usage(), Usage::default());
    stream.synchronize().unwrap();
}
