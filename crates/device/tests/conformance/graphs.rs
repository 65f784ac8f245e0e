//! Work that is recorded once and replayed, and flags, which join such work of two streams.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lighterage_device::{
    Backend, Device, Error, Flags, Host, HostConfig, Ledger, Profile, Purpose, Result, Sim, SimConfig,
    Stream, StreamKind,
};

use crate::{
    AddOne, Broken, Check, Ends, Inspect, Memory, SEEDS, assert_empty, everywhere, host, launch, on,
    on_hosts, seeded, threaded,
};

fn replay<B: Backend>(stream: &Stream<B>, graph: &mut B::Graph) -> Result<()> {
    // SAFETY: what the tests record touches mapped views, until streams, dropped or waited for first, have done it.
    unsafe { stream.replay(graph) }
}

/// Values that are there, if the backend has bytes, are these.
fn assert_values<B: Backend>(stream: &Stream<B>, view: lighterage_device::View<'_>, expected: f32) {
    let values = stream.read::<f32>(view).unwrap();
    assert!(values.is_none_or(|values| values == [expected; 4]));
}

struct Replayed;

impl Check for Replayed {
    fn check<B: Inspect>(&self, device: &Device<B>) {
        assert!(device.backend().can_replay());
        let memory = Memory::new(device, 2);
        let stream = device.stream(StreamKind::Compute).unwrap();
        let (a, b) = (memory.floats(&stream, 0), memory.floats(&stream, 1));
        stream.upload(a, &[0_f32; 4]).unwrap();
        stream.fill(b, 0).unwrap();
        let mut graph = stream
            .capture(|| {
                launch::<AddOne, B>(&stream, &Ends::new(b, a))?;
                stream.copy(a, b)
            })
            .unwrap();
        assert_values(&stream, a, 0.0);
        for times in 1..4_u8 {
            replay(&stream, &mut graph).unwrap();
            launch::<AddOne, B>(&stream, &Ends::new(a, a)).unwrap();
            assert_values(&stream, a, f32::from(2 * times));
        }
    }
}

#[test]
fn recorded_work_is_done_once_for_each_replay_and_not_before() {
    everywhere(&Replayed);
}

struct Refused;

impl Check for Refused {
    fn check<B: Inspect>(&self, device: &Device<B>) {
        let memory = Memory::new(device, 1);
        let stream = device.stream(StreamKind::Compute).unwrap();
        let a = memory.floats(&stream, 0);
        stream.upload(a, &[1_f32; 4]).unwrap();
        stream.capture(|| stream.upload(a, &[2_f32; 4])).expect_err("a staged copy");
        stream.capture(|| stream.read::<f32>(a).map(drop)).expect_err("a read");
        stream.capture(|| stream.synchronize()).expect_err("a wait of the host");
        stream.capture(|| stream.capture(|| Ok(())).map(drop)).expect_err("a graph");
        let mut inner = stream.capture(|| Ok(())).unwrap();
        stream.capture(|| replay(&stream, &mut inner)).expect_err("a replay");
        assert_values(&stream, a, 1.0);
        let mut graph = stream.capture(|| launch::<AddOne, B>(&stream, &Ends::new(a, a))).unwrap();
        replay(&stream, &mut graph).unwrap();
        assert_values(&stream, a, 2.0);
    }
}

#[test]
fn what_is_of_the_moment_cannot_be_recorded_and_the_stream_goes_on() {
    everywhere(&Refused);
}

struct Endless;

impl Check for Endless {
    fn check<B: Inspect>(&self, device: &Device<B>) {
        for count in [usize::MAX, usize::MAX / 4 + 2, usize::MAX / 8 + 2] {
            let refused = device.flags(count).map(drop);
            assert!(matches!(refused, Err(Error::OutOfBudget(_))), "{count}: {refused:?}");
        }
        assert_eq!(device.host_ledger().granted_bytes(), 0);
    }
}

/// Their bytes are more than a number holds, and as few as there is room for if they are counted without care.
#[test]
fn more_flags_than_can_be_counted_are_refused() {
    everywhere(&Endless);
}

/// A read on one thread, while another one records the same stream: it is done, or refused with nothing under way. What is recorded is never a copy to where the reader has been.
#[test]
fn reads_beside_a_recording_are_done_or_refused() {
    let device = host(HostConfig { link_bytes_per_second: Some(1e9), ..threaded()[0] });
    let memory = Memory::new(&device, 1);
    let stream = device.stream(StreamKind::Compute).unwrap();
    let page = memory.floats(&stream, 0);
    stream.upload(page, &[7_f32; 4]).unwrap();
    let is_over = AtomicBool::new(false);
    let read = |round: usize| {
        let mut target = [0_f32; 4];
        let outcome = stream.read_into(&mut target, page);
        if round.is_multiple_of(8) {
            std::thread::sleep(Duration::from_micros(50));
        }
        // What is still written would be written by another thread.
        let found = *std::hint::black_box(&mut target);
        let expected = if outcome.is_ok() { 7.0 } else { 0.0 };
        if found == [expected; 4] { Ok(()) } else { Err((round, outcome, found)) }
    };
    let reads = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let pause = || {
                    std::thread::sleep(Duration::from_micros(20));
                    Ok(())
                };
                if let Ok(mut graph) = stream.capture(pause) {
                    replay(&stream, &mut graph).unwrap();
                }
            }
        });
        let reads = (0..4000).try_for_each(read);
        is_over.store(true, Ordering::Relaxed);
        reads
    });
    assert_eq!(reads, Ok(()));
    assert_values(&stream, page, 7.0);
}

/// Two streams that add one in turns, told by flags.
struct Players<'d, B: Backend> {
    memory: Memory<B>,
    streams: [Stream<B>; 2],
    flags: Flags<B>,
    device: &'d Device<B>,
}

impl<'d, B: Backend> Players<'d, B> {
    fn new(device: &'d Device<B>) -> Self {
        let memory = Memory::new(device, 2);
        let streams = [StreamKind::Compute, StreamKind::Copy].map(|kind| device.stream(kind).unwrap());
        streams[0].upload(memory.floats(&streams[0], 0), &[0_f32; 4]).unwrap();
        Self { memory, streams, flags: device.flags(2).unwrap(), device }
    }

    /// One of them adds one to what the other has made, and says so.
    fn add(&self, me: usize, waits: bool) -> Result<()> {
        let (stream, other) = (&self.streams[me], 1 - me);
        if waits {
            stream.take(&self.flags, other)?;
        }
        let target = self.memory.floats(stream, other as u64);
        launch::<AddOne, B>(stream, &Ends::new(target, self.memory.floats(stream, me as u64)))?;
        stream.raise(&self.flags, me)
    }

    /// Both of them, `rounds` times: the first begins, and waits at its end.
    fn first(&self, rounds: usize) -> Result<()> {
        (0..rounds).try_for_each(|round| self.add(0, round > 0))?;
        self.streams[0].take(&self.flags, 1)
    }

    fn second(&self, rounds: usize) -> Result<()> {
        (0..rounds).try_for_each(|_| self.add(1, true))
    }
}

struct PingPong;

impl Check for PingPong {
    fn check<B: Inspect>(&self, device: &Device<B>) {
        let players = Players::new(device);
        assert_eq!(
            (players.flags.count(), players.device.host_ledger().granted_for(Purpose::Pinned)),
            (2, 8)
        );
        let mut graphs = [
            players.streams[0].capture(|| players.first(5)).unwrap(),
            players.streams[1].capture(|| players.second(5)).unwrap(),
        ];
        for replays in 1..5_u8 {
            // Whichever is launched first, each finds what the other has written in the same replay.
            let order = if replays % 2 == 0 { [0, 1] } else { [1, 0] };
            order.into_iter().for_each(|me| replay(&players.streams[me], &mut graphs[me]).unwrap());
            if replays == 2 {
                // The next pair is launched while this one runs.
                continue;
            }
            let stream = &players.streams[0];
            assert_values(stream, players.memory.floats(stream, 0), f32::from(10 * replays));
        }
        // The same without graphs.
        players.first(3).unwrap();
        players.second(3).unwrap();
        let stream = &players.streams[0];
        assert_values(stream, players.memory.floats(stream, 0), 46.0);
    }
}

#[test]
fn flags_order_two_graphs_that_wait_for_each_other() {
    everywhere(&PingPong);
    let timed = SimConfig::of(&Profile::named("rtx4090").unwrap());
    on(Sim::new(SimConfig { capacity_bytes: crate::CAPACITY, ..timed }).unwrap(), &PingPong);
}

/// A stream that takes a flag which nobody raises: an error that names it, in bounded time.
fn check_never_raised<B: Inspect>(device: &Device<B>) {
    let flags = device.flags(3).unwrap();
    let (stuck, free) =
        (device.stream(StreamKind::Compute).unwrap(), device.stream(StreamKind::Copy).unwrap());
    let start = Instant::now();
    free.raise(&flags, 1).unwrap();
    stuck.take(&flags, 2).unwrap();
    let error = stuck.synchronize().unwrap_err();
    assert!(matches!(&error, Error::Stream(message) if message.contains("flag 2")), "{error}");
    assert!(start.elapsed() < Duration::from_secs(20));
    free.synchronize().unwrap();
}

#[test]
fn a_flag_that_nobody_raises_fails_the_stream_and_is_named() {
    for config in threaded().into_iter().chain((0..SEEDS).map(seeded)) {
        let config = HostConfig { flag_patience: Duration::from_millis(20), ..config };
        let device = host(config);
        check_never_raised(&device);
        assert_empty(&device);
    }
}

struct GivenUp;

impl Check for GivenUp {
    fn check<B: Inspect>(&self, device: &Device<B>) {
        let flags = device.flags(1).unwrap();
        let stream = device.stream(StreamKind::Compute).unwrap();
        stream.take(&flags, 0).unwrap();
        flags.give_up("nobody will raise it");
        let error = stream.synchronize().unwrap_err();
        assert_eq!(error, Error::Stream("nobody will raise it".to_owned()));
    }
}

#[test]
fn who_waits_for_flags_that_are_given_up_goes_on_as_failed() {
    on_hosts(&GivenUp);
}

#[test]
fn a_failure_passes_on_to_who_waits_for_a_flag_behind_it() {
    for config in threaded().into_iter().chain((0..SEEDS).map(seeded)) {
        let device = host(config);
        {
            let flags = device.flags(1).unwrap();
            let streams = [StreamKind::Compute, StreamKind::Copy].map(|kind| device.stream(kind).unwrap());
            let mut graph = streams[0]
                .capture(|| {
                    launch::<Broken, Host>(&streams[0], &7)?;
                    streams[0].raise(&flags, 0)
                })
                .unwrap();
            streams[1].take(&flags, 0).unwrap();
            replay(&streams[0], &mut graph).unwrap();
            for stream in &streams {
                let error = stream.synchronize().unwrap_err();
                assert!(matches!(&error, Error::Stream(message) if message.contains("number 7")), "{error}");
            }
        }
        assert_empty(&device);
    }
}

/// A GPU would lose one of the two signals.
#[test]
fn a_flag_that_is_raised_twice_is_found() {
    for config in threaded().into_iter().chain((0..SEEDS).map(seeded)) {
        let device = host(config);
        let flags = device.flags(1).unwrap();
        let stream = device.stream(StreamKind::Compute).unwrap();
        stream.raise(&flags, 0).unwrap();
        let _ = stream.raise(&flags, 0);
        let error = stream.synchronize().unwrap_err();
        assert!(
            matches!(&error, Error::Stream(message) if message.contains("flag 0 was raised again")),
            "{error}"
        );
    }
}

/// On a clock a graph costs the host one call, and its work as much as before.
#[test]
fn a_replay_costs_the_host_one_call() {
    let sim = Sim::new(SimConfig::of(&Profile::named("h100").unwrap())).unwrap();
    let device = Device::new(sim, Ledger::new(1 << 30), Ledger::new(64));
    let memory = Memory::new(&device, 1);
    let stream = device.stream(StreamKind::Compute).unwrap();
    let a = memory.floats(&stream, 0);
    let work = || (0..100).try_for_each(|_| launch::<AddOne, Sim>(&stream, &Ends::new(a, a)));
    let host_seconds = || device.backend().modelled().unwrap().host_seconds;
    let (start, launched) = (host_seconds(), device.backend().counters().launches);
    work().unwrap();
    let plain = host_seconds() - start;
    let mut graph = stream.capture(work).unwrap();
    let (start, computed) = (host_seconds(), device.backend().modelled().unwrap().compute_seconds);
    replay(&stream, &mut graph).unwrap();
    let replayed = host_seconds() - start;
    assert!((plain / replayed - 100.0).abs() < 0.01, "{plain} s, replayed {replayed} s");
    assert_eq!(device.backend().counters().launches - launched, 200);
    assert!(device.backend().modelled().unwrap().compute_seconds > 1.9 * computed);
    stream.synchronize().unwrap();
}

/// Their words are of another device's memory, and its host that waits knows nothing of them.
#[test]
fn flags_of_another_device_are_refused() {
    fn check<B: Backend>([device, other]: [Device<B>; 2]) {
        let (flags, stream) = (other.flags(8).unwrap(), device.stream(StreamKind::Compute).unwrap());
        let refused = |call| Err(Error::OtherDevice { call, what: "flags", used_on: stream.id() });
        assert_eq!(stream.raise(&flags, 7), refused("raise"));
        assert_eq!(stream.take(&flags, 7), refused("take"));
        stream.capture(|| stream.take(&flags, 7)).expect_err("nor in a recording");
        assert_eq!(stream.synchronize(), Ok(()));
        let own = device.flags(1).unwrap();
        stream.raise(&own, 0).unwrap();
        stream.take(&own, 0).unwrap();
        assert_eq!(stream.synchronize(), Ok(()));
    }
    check([(); 2].map(|()| host(threaded()[0])));
    let sim = || Sim::new(SimConfig::default()).unwrap();
    check([(); 2].map(|()| Device::new(sim(), Ledger::new(0), Ledger::new(1 << 20))));
}

/// Their words are there as long as a graph may use them, and the ledger knows.
#[test]
fn flags_are_charged_until_no_graph_uses_them() {
    for config in [threaded()[0], seeded(1)] {
        let device = host(config);
        let (flags, stream) = (device.flags(3).unwrap(), device.stream(StreamKind::Compute).unwrap());
        let mut graph = stream
            .capture(|| {
                stream.raise(&flags, 2)?;
                stream.take(&flags, 2)
            })
            .unwrap();
        drop(flags);
        assert_eq!(device.host_ledger().granted_bytes(), 12);
        replay(&stream, &mut graph).unwrap();
        stream.synchronize().unwrap();
        assert_eq!(device.host_ledger().granted_bytes(), 12);
        drop(graph);
        assert_eq!(device.host_ledger().granted_bytes(), 0);
    }
}
