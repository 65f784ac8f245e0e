//! The caching allocator on `Host`, with real bytes: every buffer holds a pattern of its own from the moment it is handed out, and has it still when it is given
//! back, wherever pages went meanwhile. What another stream copies out of a buffer is the pattern too, although the buffer is given back at once.
#![expect(clippy::unwrap_used, reason = "a test fails where it should not")]

use std::thread;

use lighterage_allocator::{Allocator, Error, Handle, Magazines, OnStream, Settings, Tag};
use lighterage_device::{Device, Host, HostConfig, Ledger, Stream, StreamKind, View};
use lighterage_shape::{DType, Layout};
use lighterage_testkit::Rng;

const PAGE: u64 = 16 << 10;
/// Two of the largest requests and some small ones: pages have to move.
const PAGES: u64 = 200;

struct Bench {
    device: Device<Host>,
    allocator: Allocator<Host>,
    streams: Vec<OnStream<Host>>,
}

impl Bench {
    fn new(seed: Option<u64>, settings: Settings) -> Self {
        let host =
            Host::new(HostConfig { page_bytes: PAGE, threads: 1, seed, ..HostConfig::default() }).unwrap();
        let device = Device::new(host, Ledger::new(PAGES * PAGE), Ledger::new(0));
        let allocator = Allocator::new(&device, settings).unwrap();
        let kinds = [StreamKind::Compute, StreamKind::Copy, StreamKind::Compute];
        let streams = kinds.map(|kind| allocator.on(&device.stream(kind).unwrap()).unwrap()).into();
        Self { device, allocator, streams }
    }

    fn assert_clean(self) {
        let Self { device, allocator, streams } = self;
        allocator.audit().unwrap();
        // The first one records events behind all work, the second one finds them complete.
        allocator.trim().unwrap();
        streams.iter().for_each(|on| on.stream().synchronize().unwrap());
        allocator.trim().unwrap();
        assert_eq!(device.ledger().granted_bytes(), 0);
    }
}

/// A buffer and what is in it: a pattern of this number.
struct Held {
    on: OnStream<Host>,
    handle: Handle,
    pattern: u64,
}

/// Bytes that no other pattern has in that place, nor this one in another.
fn pattern(number: u64, bytes: u64) -> Vec<u8> {
    let words = (0..bytes.div_ceil(8)).map(|at| (number << 32 | at).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut pattern: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    pattern.truncate(usize::try_from(bytes).unwrap());
    pattern
}

/// What a stream may use of a handle's memory: it is its own, or events order it.
fn view<'a>(handle: &Handle, stream: &'a Stream<Host>) -> View<'a> {
    let layout = Layout::contiguous(DType::U8, &[usize::try_from(handle.bytes()).unwrap()]);
    // SAFETY: the handle has that many bytes, and is given back after all work on it was queued, which the allocator waits for.
    unsafe { View::new(handle.address(), layout, stream.id()) }
}

impl Held {
    /// A buffer with its pattern; none where there is no room.
    fn new(on: &OnStream<Host>, bytes: u64, number: u64) -> Option<Self> {
        match on.allocate(bytes, Tag::NONE) {
            Ok(handle) => {
                on.stream().upload(view(&handle, on.stream()), &pattern(number, bytes)).unwrap();
                Some(Self { on: on.clone(), handle, pattern: number })
            }
            Err(Error::OutOfBudget(_)) => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn check(&self) {
        let stream = self.on.stream();
        let found: Vec<u8> = stream.read(view(&self.handle, stream)).unwrap().unwrap();
        let expected = pattern(self.pattern, self.handle.bytes());
        let wrong = found.iter().zip(&expected).position(|(found, expected)| found != expected);
        assert_eq!(wrong, None, "pattern {} at {:?}", self.pattern, self.handle);
    }

    fn give_back(self) {
        self.on.free(self.handle).unwrap();
    }

    /// Copies it on another stream, and gives it back before that is done; the copy, which has the same pattern.
    fn hand_over(self, device: &Device<Host>, other: &OnStream<Host>) -> Option<Self> {
        let Ok(handle) = other.allocate(self.handle.bytes(), Tag::NONE) else {
            self.give_back();
            return None;
        };
        let event = device.event().unwrap();
        self.on.stream().record(&event).unwrap();
        other.stream().wait(&event).unwrap();
        other.stream().copy(view(&handle, other.stream()), view(&self.handle, other.stream())).unwrap();
        other.allocator().used_on(self.handle, other.stream()).unwrap();
        let copy = Self { on: other.clone(), handle, pattern: self.pattern };
        self.give_back();
        Some(copy)
    }
}

/// Crumbs, pages and a bit, and more than 1 MiB, some of which come again.
fn bytes(rng: &mut Rng) -> u64 {
    match rng.below(8) {
        0..3 => 1 + rng.below(3000),
        3..6 => 1 + rng.below(6 * PAGE),
        6 => (1 << 20) + PAGE,
        _ => (1 << 20) + 1 + rng.below(8 * PAGE),
    }
}

fn pick<T>(rng: &mut Rng, values: &mut Vec<T>) -> Option<T> {
    let count = values.len() as u64;
    (count > 0).then(|| values.swap_remove(usize::try_from(rng.below(count)).unwrap()))
}

/// A thread's random operations on some streams, which it may share with others.
fn work(bench: &Bench, rng: &mut Rng, first: u64, operations: u64) {
    let mut held = Vec::new();
    for number in first..first + operations {
        let on = &bench.streams[usize::try_from(rng.below(3)).unwrap()];
        match rng.below(16) {
            0..7 => held.extend(Held::new(on, bytes(rng), number)),
            7..9 => {
                let copied = pick(rng, &mut held).and_then(|held| held.hand_over(&bench.device, on));
                held.extend(copied);
            }
            9 => held.iter().for_each(Held::check),
            10 => drop(bench.allocator.trim().unwrap()),
            _ => {
                if let Some(held) = pick(rng, &mut held) {
                    held.check();
                    held.give_back();
                }
            }
        }
    }
    for held in held {
        held.check();
        held.give_back();
    }
}

fn settings(magazines: Magazines) -> Settings {
    Settings { big_chunk_pages: 4, event_every: 4, magazines, ..Settings::default() }
}

#[test]
fn every_buffer_keeps_its_pattern_wherever_pages_go() {
    let mut rng = Rng::from_env(61);
    let mut events = [0; 3];
    for round in 0..6 {
        let seed = (round > 0).then_some(round);
        let magazines = if round % 2 == 0 { Magazines::Never } else { Magazines::Always };
        let bench = Bench::new(seed, settings(magazines));
        work(&bench, &mut rng, 0, 400);
        let counts = bench.allocator.statistics().events;
        let found = [counts.remaps, counts.cross_stream_free + counts.cross_stream_waited, counts.host_waits];
        events.iter_mut().zip(found).for_each(|(sum, count)| *sum += count);
        bench.assert_clean();
    }
    assert!(events.iter().all(|count| *count > 0), "remaps, blocks of other streams, waits: {events:?}");
}

#[test]
fn threads_keep_their_patterns_apart() {
    let bench = Bench::new(None, settings(Magazines::Contended));
    let mut seeds = Rng::from_env(62);
    thread::scope(|scope| {
        for number in 0..3 {
            let (bench, mut rng) = (&bench, Rng::new(seeds.bits()));
            scope.spawn(move || work(bench, &mut rng, number << 20, 400));
        }
    });
    bench.assert_clean();
}
