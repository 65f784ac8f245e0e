use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lighterage_device::{
    Backend, Cost, Device, Error, Event, Host, HostConfig, Kernel, Result, Sim, SimConfig, SimCounters,
    Stream, StreamKind, Traffic, Workers,
};

use crate::{
    AddOne, Broken, Check, Ends, GATES, Gated, Inspect, Memory, assert_empty, everywhere, floats_at, host,
    launch, on_hosts, seeded, threaded,
};

/// Values that are there, if the backend has bytes, are these.
fn assert_values<B: Backend>(stream: &Stream<B>, view: lighterage_device::View<'_>, expected: f32) {
    let values = stream.read::<f32>(view).unwrap();
    assert_eq!(values.is_some(), stream.device().info().has_bytes);
    assert!(values.is_none_or(|values| values == [expected; 4]));
}

struct InOrder;

impl Check for InOrder {
    fn check<B: Inspect>(&self, device: &Device<B>) {
        let memory = Memory::new(device, 2);
        let stream = device.stream(StreamKind::Compute).unwrap();
        let (a, b) = (memory.floats(&stream, 0), memory.floats(&stream, 1));
        stream.upload(a, &[1_f32; 4]).unwrap();
        stream.fill(b, 0x7f).unwrap();
        for _ in 0..50 {
            launch::<AddOne, B>(&stream, &Ends::new(b, a)).unwrap();
            stream.copy(a, b).unwrap();
        }
        assert_values(&stream, a, 51.0);
        stream.fill(a, 0).unwrap();
        stream.copy(b, a).unwrap();
        assert_values(&stream, b, 0.0);
    }
}

#[test]
fn work_of_one_stream_happens_in_order() {
    everywhere(&InOrder);
}

struct PingPong;

impl Check for PingPong {
    /// Each stream adds one to what the other has made, in turns given by events alone.
    fn check<B: Inspect>(&self, device: &Device<B>) {
        let memory = Memory::new(device, 2);
        let streams = [StreamKind::Compute, StreamKind::Copy].map(|kind| device.stream(kind).unwrap());
        let events = [device.event().unwrap(), device.event().unwrap()];
        streams[0].upload(memory.floats(&streams[0], 0), &[0_f32; 4]).unwrap();
        for turn in 0..40 {
            let (me, other) = (turn % 2, (turn + 1) % 2);
            let stream = &streams[me];
            stream.wait(&events[other]).unwrap();
            let (target, source) = (memory.floats(stream, other as u64), memory.floats(stream, me as u64));
            launch::<AddOne, B>(stream, &Ends::new(target, source)).unwrap();
            stream.record(&events[me]).unwrap();
        }
        events[1].synchronize().unwrap();
        assert!(events[1].is_complete().unwrap());
        assert_values(&streams[0], memory.floats(&streams[0], 0), 40.0);
    }
}

#[test]
fn events_order_streams_both_ways() {
    everywhere(&PingPong);
}

struct Unrecorded;

impl Check for Unrecorded {
    fn check<B: Inspect>(&self, device: &Device<B>) {
        let stream = device.stream(StreamKind::Compute).unwrap();
        let event = device.event().unwrap();
        assert!(event.is_complete().unwrap());
        event.synchronize().unwrap();
        stream.wait(&event).unwrap();
        stream.synchronize().unwrap();
    }
}

#[test]
fn event_without_record_is_complete() {
    everywhere(&Unrecorded);
}

struct Staged;

impl Check for Staged {
    fn check<B: Inspect>(&self, device: &Device<B>) {
        let memory = Memory::new(device, 8);
        let stream = device.stream(StreamKind::Compute).unwrap();
        // Below and above the size up to which a copy is staged.
        for count in [4, 16 << 10, 100 << 10] {
            let layout = lighterage_shape::Layout::contiguous(lighterage_shape::DType::F32, &[count]);
            let address = memory.range.address();
            // SAFETY: eight pages of at least 64 KiB are mapped there, and this stream alone uses them.
            let view = unsafe { lighterage_device::View::new(address, layout, stream.id()) };
            let mut values = vec![1_f32; count];
            stream.upload(view, &values).unwrap();
            values.fill(2.0);
            let read = stream.read::<f32>(view).unwrap();
            assert!(read.is_none_or(|read| read.iter().all(|value| *value == 1.0)), "{count} values");
        }
    }
}

#[test]
fn uploaded_slice_may_change_at_once() {
    everywhere(&Staged);
}

struct Refusals;

impl Check for Refusals {
    fn check<B: Inspect>(&self, device: &Device<B>) {
        let memory = Memory::new(device, 1);
        let streams = [StreamKind::Compute, StreamKind::Copy].map(|kind| device.stream(kind).unwrap());
        let (mine, foreign) = (memory.floats(&streams[0], 0), memory.floats(&streams[1], 0));
        let [stream, _] = &streams;
        assert!(matches!(stream.fill(foreign, 0), Err(Error::WrongStream { call: "fill", .. })));
        assert!(matches!(stream.read::<f32>(foreign), Err(Error::WrongStream { call: "read", .. })));
        assert!(matches!(stream.copy(mine, foreign), Err(Error::WrongStream { call: "copy", .. })));
        let expected = Error::Size { call: "upload", expected: 16, got: 12 };
        assert_eq!(stream.upload(mine, &[0_f32; 3]), Err(expected));
        assert!(matches!(stream.copy(mine, mine), Err(Error::Range { call: "copy", .. })));
        let gaps = mine.reshape(&[2, 2]).unwrap().narrow(1, 0, 1).unwrap();
        assert!(matches!(stream.fill(gaps, 0), Err(Error::NotContiguous { call: "fill", .. })));
        assert!(matches!(stream.read::<[u8; 3]>(mine), Err(Error::Size { call: "read", .. })));
    }
}

#[test]
fn views_that_do_not_suit_are_refused() {
    everywhere(&Refusals);
}

#[test]
fn launch_returns_before_a_slow_kernel_is_done() {
    for config in threaded() {
        let gate = &GATES[0];
        gate.close();
        let device = host(config);
        let memory = Memory::new(&device, 1);
        let [compute, copy] =
            [StreamKind::Compute, StreamKind::Copy].map(|kind| device.stream(kind).unwrap());
        let event = device.event().unwrap();
        launch::<Gated, _>(&compute, &0).unwrap();
        compute.record(&event).unwrap();
        // The kernel cannot end before the gate opens, and nobody has opened it.
        assert!(!event.is_complete().unwrap());
        // The other stream goes on meanwhile.
        copy.upload(memory.floats(&copy, 0), &[7_f32; 4]).unwrap();
        assert_values(&copy, memory.floats(&copy, 0), 7.0);
        assert_eq!(gate.passed(), 0);
        gate.open();
        event.synchronize().unwrap();
        assert_eq!((gate.passed(), event.is_complete()), (1, Ok(true)));
    }
}

#[test]
fn queue_is_bounded_and_a_full_one_blocks() {
    const LAUNCHES: u64 = 1500;
    // One runs, 1024 are queued, and one call is under way.
    const AHEAD_MAX: u64 = 1026;
    let gate = &GATES[1];
    let device = host(threaded().remove(0));
    let stream = device.stream(StreamKind::Compute).unwrap();
    let queued = AtomicU64::new(0);
    let ahead = thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..LAUNCHES {
                launch::<Gated, _>(&stream, &1).unwrap();
                queued.fetch_add(1, Ordering::SeqCst);
            }
        });
        while queued.load(Ordering::SeqCst) < 1024 {
            thread::yield_now();
        }
        // Time for a queue without a bound to run away; a bounded one passes whatever happens.
        thread::sleep(Duration::from_millis(20));
        let ahead = queued.load(Ordering::SeqCst);
        gate.open();
        ahead
    });
    assert!(ahead <= AHEAD_MAX, "{ahead}");
    stream.synchronize().unwrap();
    assert_eq!(gate.passed(), LAUNCHES);
}

#[test]
fn seeded_queue_is_bounded_too() {
    let gate = &GATES[5];
    gate.open();
    for seed in 0..4 {
        let device = host(seeded(seed));
        let stream = device.stream(StreamKind::Compute).unwrap();
        for launched in 1..3000 {
            launch::<Gated, _>(&stream, &5).unwrap();
            assert!(launched <= gate.passed() + 1024, "seed {seed}: {} of {launched}", gate.passed());
        }
        stream.synchronize().unwrap();
        gate.close();
        gate.open();
    }
}

#[test]
fn dropped_stream_waits_for_its_work_also_while_unwinding() {
    let gate = &GATES[2];
    let device = host(threaded().remove(1));
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let stream = device.stream(StreamKind::Compute).unwrap();
        launch::<Gated, _>(&stream, &2).unwrap();
        thread::spawn(|| {
            thread::sleep(Duration::from_millis(10));
            gate.open();
        });
        panic!("unwinds over a stream with pending work");
    }));
    assert!(unwound.is_err());
    assert_eq!(gate.passed(), 1);
    device.take_deferred().unwrap();
}

#[test]
fn wait_that_fails_has_waited() {
    type Wait = fn(&Stream<Host>, &Event<Host>) -> Result<()>;
    let waits: [Wait; 2] = [|stream, _| stream.synchronize(), |_, event| event.synchronize()];
    for wait in waits {
        let gate = &GATES[4];
        gate.close();
        // Calls: stream, event, launch, record, wait.
        let device = host(HostConfig { fail_call: Some(4), ..threaded().remove(1) });
        let (stream, event) = (device.stream(StreamKind::Compute).unwrap(), device.event().unwrap());
        launch::<Gated, _>(&stream, &4).unwrap();
        stream.record(&event).unwrap();
        let opener = thread::spawn(|| {
            thread::sleep(Duration::from_millis(10));
            gate.open();
        });
        let outcome = wait(&stream, &event);
        assert!(matches!(outcome, Err(Error::Stream(_))));
        assert_eq!(gate.passed(), 1, "the caller may unmap now");
        opener.join().unwrap();
    }
}

#[test]
fn memory_outlives_a_device_that_is_dropped_before_its_stream() {
    for config in threaded().into_iter().chain([seeded(1), seeded(2)]) {
        let raw = Host::new(config).unwrap();
        let page = raw.info().page_bytes;
        let (at, chunk) = (raw.reserve(page).unwrap(), raw.create(page).unwrap());
        // SAFETY: a free page of the reservation.
        unsafe { raw.map(at, chunk, page) }.unwrap();
        // SAFETY: it is mapped.
        unsafe { raw.set_access(at, page) }.unwrap();
        let stream = raw.stream(StreamKind::Compute).unwrap();
        for value in 0..100 {
            // SAFETY: the page stays mapped as long as the stream has it.
            unsafe { raw.fill(&stream, at, value, page) }.unwrap();
        }
        drop(raw);
        drop(stream);
    }
}

struct Failure;

impl Check for Failure {
    fn check<B: Inspect>(&self, device: &Device<B>) {
        let memory = Memory::new(device, 1);
        let [bad, behind, apart] = [(); 3].map(|()| device.stream(StreamKind::Compute).unwrap());
        let event = device.event().unwrap();
        let failed = |outcome: Result<()>| {
            assert_eq!(outcome, Err(Error::Stream("kernel broken panicked: number 7".to_owned())));
        };
        launch::<Broken, B>(&bad, &7).unwrap();
        // Recorded behind the failure, or refused because the failure came first.
        let recorded = bad.record(&event);
        if recorded.is_ok() {
            failed(event.synchronize());
            failed(event.is_complete().map(drop));
            // Waiting for failed work fails as well: what it should have made is not there.
            failed(behind.wait(&event).and_then(|()| behind.synchronize()));
            failed(behind.synchronize());
        }
        failed(bad.synchronize());
        failed(bad.synchronize());
        failed(launch::<AddOne, B>(&bad, &Ends::new(memory.floats(&bad, 0), memory.floats(&bad, 0))));
        failed(bad.upload(memory.floats(&bad, 0), &[0_f32; 4]));
        failed(bad.read::<f32>(memory.floats(&bad, 0)).map(drop));
        failed(bad.fill(memory.floats(&bad, 0), 0));
        failed(bad.record(&event));
        // Streams that have nothing to do with it go on.
        apart.upload(memory.floats(&apart, 0), &[9_f32; 4]).unwrap();
        assert_values(&apart, memory.floats(&apart, 0), 9.0);
        drop((bad, behind));
        device
            .create(lighterage_device::Purpose::Ring, device.info().page_bytes)
            .expect("the failure was reported already");

        let unheard = device.stream(StreamKind::Compute).unwrap();
        launch::<Broken, B>(&unheard, &7).unwrap();
        drop(unheard);
        failed(device.reserve(1).map(drop));
        device.reserve(1).expect("a deferred error is returned once");
    }
}

#[test]
fn panic_in_a_kernel_fails_its_stream_and_nothing_else() {
    on_hosts(&Failure);
}

/// Calls the device from inside, which CUDA forbids too.
struct Recursive;

static STREAMS: Mutex<Vec<Stream<Host>>> = Mutex::new(Vec::new());
static ANSWERS: Mutex<Vec<Error>> = Mutex::new(Vec::new());

impl Kernel for Recursive {
    type Params = u64;
    const NAME: &'static str = "recursive";

    unsafe fn host(index: &u64, _: &Workers) {
        let stream = STREAMS.lock().unwrap()[usize::try_from(*index).unwrap()].clone();
        let mut answers = ANSWERS.lock().unwrap();
        answers.push(stream.synchronize().unwrap_err());
        answers.push(launch::<Gated, _>(&stream, &3).unwrap_err());
    }

    fn cost(_: &u64) -> Cost {
        Cost::default()
    }
}

#[test]
fn kernel_that_calls_its_device_is_refused() {
    let configs = [threaded().remove(1), seeded(3)];
    for (index, config) in configs.into_iter().enumerate() {
        let stream = host(config).stream(StreamKind::Compute).unwrap();
        STREAMS.lock().unwrap().push(stream.clone());
        launch::<Recursive, _>(&stream, &(index as u64)).unwrap();
        stream.synchronize().unwrap();
        let refused = Error::Stream("a kernel called the device that runs it".to_owned());
        assert_eq!(*ANSWERS.lock().unwrap(), vec![refused; 2 * (index + 1)]);
    }
    STREAMS.lock().unwrap().clear();
}

#[test]
fn link_is_shared_by_streams_and_directions() {
    const BYTES: usize = 1 << 20;
    // Three copies of 1 MiB at 32 MiB/s take at least 3/32 s, whoever makes them.
    let device =
        host(HostConfig { link_bytes_per_second: Some(32.0 * BYTES as f64), ..threaded().remove(0) });
    let page = device.info().page_bytes;
    let memory = Memory::new(&device, 2 * BYTES as u64 / page);
    let streams = [StreamKind::Compute, StreamKind::Copy].map(|kind| device.stream(kind).unwrap());
    let pinned = device.pin(BYTES as u64).unwrap();
    let source = std::ptr::with_exposed_provenance::<u8>(usize::try_from(pinned.address().0).unwrap());
    let start = Instant::now();
    for (index, stream) in streams.iter().enumerate() {
        let target = memory.range.address().offset((index * BYTES) as u64);
        // SAFETY: the target is mapped, the source is pinned, and both stay until the streams are waited for.
        unsafe { stream.copy_from_host(target, source, BYTES as u64) }.unwrap();
    }
    let layout = lighterage_shape::Layout::contiguous(lighterage_shape::DType::U8, &[BYTES]);
    // SAFETY: the bytes are mapped, and this stream wrote them.
    let view = unsafe { lighterage_device::View::new(memory.range.address(), layout, streams[0].id()) };
    streams[0].read::<u8>(view).unwrap();
    streams[1].synchronize().unwrap();
    let seconds = start.elapsed().as_secs_f64();
    assert!(seconds >= 3.0 / 32.0, "{seconds} s");
}

#[test]
fn simulator_counts_what_it_is_asked_to_do() {
    let sim = Sim::new(SimConfig::default()).unwrap();
    let device =
        Device::new(sim, lighterage_device::Ledger::new(1 << 30), lighterage_device::Ledger::new(1 << 30));
    let memory = Memory::new(&device, 2);
    let stream = device.stream(StreamKind::Compute).unwrap();
    let (a, b) = (memory.floats(&stream, 0), memory.floats(&stream, 1));
    stream.upload(a, &[1_f32; 4]).unwrap();
    for _ in 0..3 {
        launch::<AddOne, _>(&stream, &Ends::new(b, a)).unwrap();
    }
    stream.copy(a, b).unwrap();
    stream.fill(b, 0).unwrap();
    assert_eq!(stream.read::<f32>(a), Ok(None));
    let expected = SimCounters {
        launches: 3,
        flops: 12.0,
        bytes: 96.0,
        to_device: Traffic { copies: 1, bytes: 16 },
        to_host: Traffic { copies: 1, bytes: 16 },
        on_device: Traffic { copies: 2, bytes: 32 },
    };
    assert_eq!(device.backend().counters(), expected);
    drop(memory);
    assert_empty(&device);
}

#[test]
fn simulated_addresses_repeat() {
    let run = || {
        let device = Device::new(
            Sim::new(SimConfig::default()).unwrap(),
            lighterage_device::Ledger::new(1 << 30),
            lighterage_device::Ledger::new(1 << 30),
        );
        (0..4).map(|index| device.reserve(index << 20).map(|range| range.address())).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

/// A sum whose tasks are cut by size alone.
struct Sum;

impl Kernel for Sum {
    type Params = Ends;
    const NAME: &'static str = "sum";

    unsafe fn host(params: &Ends, workers: &Workers) {
        let parts: Vec<AtomicU64> = (0..64).map(|_| AtomicU64::new(0)).collect();
        workers.for_each(parts.len(), |part| {
            let sum: f64 = (1000 * part..1000 * (part + 1)).map(|index| 1.0 / (index + 1) as f64).sum();
            parts[part].store(sum.to_bits(), Ordering::Relaxed);
        });
        let sum: f64 = parts.into_iter().map(|part| f64::from_bits(part.into_inner())).sum();
        let target = std::ptr::with_exposed_provenance_mut::<f64>(usize::try_from(params.target).unwrap());
        // SAFETY: sixteen bytes are mapped there.
        unsafe { target.write(sum) };
    }

    fn cost(_: &Ends) -> Cost {
        Cost::default()
    }
}

#[test]
fn number_of_threads_changes_no_bit() {
    let run = |config| {
        let device = host(config);
        let memory = Memory::new(&device, 1);
        let stream = device.stream(StreamKind::Compute).unwrap();
        let view = memory.floats(&stream, 0);
        stream.fill(view, 0).unwrap();
        // SAFETY: the kernel writes eight bytes of the view.
        unsafe { stream.launch::<Sum>(&Ends::new(view, view)) }.unwrap();
        stream.read::<u64>(view).unwrap().unwrap()
    };
    let results: Vec<_> = threaded().into_iter().chain([seeded(0)]).map(run).collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{results:?}");
    assert!(f64::from_bits(results[0][0]) > 11.0);
}

#[test]
fn unmapped_alias_does_not_disturb_the_other() {
    let device = host(threaded().remove(1));
    let page = device.info().page_bytes;
    let stream = device.stream(StreamKind::Compute).unwrap();
    let range = device.reserve(2 * page).unwrap();
    let chunk = crate::chunk(&device, 1);
    for round in 0..20_u8 {
        range.map(page, &chunk).unwrap();
        range.set_access(page, page).unwrap();
        let view = floats_at(range.address().offset(page), &stream);
        stream.fill(view, round).unwrap();
        stream.synchronize().unwrap();
        range.map(0, &chunk).unwrap();
        range.unmap(page, page).unwrap();
        range.set_access(0, page).unwrap();
        let seen = stream.read::<u8>(floats_at(range.address(), &stream)).unwrap().unwrap();
        assert_eq!(seen, [round; 16]);
        range.unmap(0, page).unwrap();
    }
}
