//! The state machine: random operations, a plain model beside them, and all invariants after each.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use lighterage_device::Purpose;
use lighterage_testkit::Rng;

use super::{Bench, PAGE};
use crate::{Error, Handle, Magazines, Need, Settings, Tag};

/// The budget in pages: small, so that every rung of the ladder is needed.
const PAGES: u64 = 48;

struct Live {
    handle: Handle,
    stream: usize,
}

struct Machine {
    bench: Bench,
    pages: u64,
    rng: Rng,
    live: Arc<Mutex<Vec<Live>>>,
    stale: Vec<Handle>,
    generations: BTreeSet<u64>,
    /// Whether the thread keeps blocks: to look at the books takes them away.
    keeps: bool,
    /// Small and large requests that magazines served.
    kept: [u64; 2],
    refused: u64,
}

impl Machine {
    fn new(rng: Rng) -> Self {
        Self::with(rng, Bench::small_chunks())
    }

    fn with(rng: Rng, settings: Settings) -> Self {
        Self::of_pages(PAGES, rng, settings)
    }

    fn of_pages(pages: u64, rng: Rng, settings: Settings) -> Self {
        Self {
            keeps: settings.magazines == Magazines::Always && settings.trace_events == 0,
            bench: Bench::new(pages, 4, settings),
            pages,
            rng,
            live: Arc::default(),
            stale: Vec::new(),
            generations: BTreeSet::new(),
            kept: [0; 2],
            refused: 0,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound as u64)).unwrap()
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..45 => self.allocate(),
            45..80 => self.free(),
            80..86 => self.use_elsewhere(),
            86..93 => {
                let stream = self.below(4);
                self.bench.clock.finish(stream);
            }
            93..95 => drop(self.bench.allocator.trim().unwrap()),
            95..97 => self.change_budget(),
            97..99 => self.free_twice(),
            _ => self.allocate_under_pressure(),
        }
    }

    /// Sizes of all kinds: crumbs, pages and a bit, and much of everything.
    fn bytes(&mut self) -> u64 {
        match self.rng.below(10) {
            0..4 => self.rng.below(4096),
            4..7 => self.rng.below(2 * PAGE),
            7 => (1 << 20) + self.rng.below(6 * PAGE),
            // One that comes again: threads keep large blocks of such sizes alone.
            8 => (1 << 20) + PAGE,
            _ => self.rng.below(PAGES * PAGE / 2),
        }
    }

    fn allocate(&mut self) {
        let (stream, bytes) = (self.below(4), self.bytes());
        let must_fit = !self.keeps && self.must_fit(bytes);
        match self.bench.streams[stream].allocate(bytes, Tag::NONE) {
            Ok(handle) => self.check_new(handle, stream, bytes),
            Err(Error::OutOfBudget(report)) => {
                // A refusal changes nothing that stands in the way.
                let must_fit = if self.keeps { self.must_fit(bytes) } else { must_fit };
                assert!(!must_fit, "I13: {report}");
                self.refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// I13: whether nothing may stand in the way of a request.
    fn must_fit(&self, bytes: u64) -> bool {
        let statistics = self.bench.allocator.statistics();
        // Everything in chunks that hold something, and the request in pages of its own.
        let held = statistics.all.active_bytes.current + statistics.pinned_bytes;
        let ledger = self.bench.device.ledger();
        held + bytes.max(1).div_ceil(PAGE) * PAGE + statistics.external_bytes <= ledger.limit_bytes()
            && self.bench.device.ledger().excess_bytes() == 0
    }

    fn check_new(&mut self, handle: Handle, stream: usize, bytes: u64) {
        let last = self.generations.last().is_none_or(|last| handle.generation() > *last);
        assert!(last || self.keeps, "I9: generations go up");
        assert!(self.generations.insert(handle.generation()), "I9: a generation comes again");
        // The first bit says who gave it out.
        self.kept[usize::from(bytes > 1 << 20)] += handle.generation() >> 63;
        assert_eq!(handle.address().0 % 512, 0);
        assert_eq!(handle.bytes(), bytes.max(1));
        let (start, end) = (handle.address().0, handle.address().0 + bytes.max(1));
        let mut live = self.live.lock().unwrap();
        for other in live.iter() {
            let (from, to) = (other.handle.address().0, other.handle.address().0 + other.handle.bytes());
            assert!(end <= from || to <= start, "I1: {start:#x}..{end:#x} overlaps {from:#x}..{to:#x}");
        }
        // The stream oracle: nobody else may still be at it.
        let users = self.bench.clock.users(stream, handle.address(), bytes.max(1));
        assert!(users.is_empty(), "I7: handed to stream {stream} while {users:?} use it");
        self.bench.clock.launch(stream, handle.address(), bytes.max(1));
        live.push(Live { handle, stream });
    }

    fn free(&mut self) {
        let count = self.live.lock().unwrap().len();
        if count == 0 {
            return;
        }
        let index = self.below(count);
        let live = self.live.lock().unwrap().swap_remove(index);
        self.bench.clock.launch(live.stream, live.handle.address(), live.handle.bytes());
        let calls = self.bench.device.backend().calls();
        self.bench.allocator.free(live.handle).unwrap();
        assert_eq!(self.bench.device.backend().calls(), calls, "free makes no driver call");
        self.stale.push(live.handle);
    }

    fn use_elsewhere(&mut self) {
        let count = self.live.lock().unwrap().len();
        if count == 0 {
            return;
        }
        let (index, other) = (self.below(count), self.below(4));
        let handle = self.live.lock().unwrap()[index].handle;
        self.bench.allocator.used_on(handle, self.bench.streams[other].stream()).unwrap();
        self.bench.clock.launch(other, handle.address(), handle.bytes());
    }

    fn change_budget(&mut self) {
        let pages = self.pages / 4 + self.rng.below(self.pages);
        let left = self.bench.allocator.set_budget(pages * PAGE).unwrap();
        assert_eq!(left, self.bench.device.ledger().excess_bytes());
    }

    fn free_twice(&mut self) {
        let count = self.stale.len();
        if count > 0 {
            let index = self.below(count);
            let handle = self.stale[index];
            assert!(matches!(self.bench.allocator.free(handle), Err(Error::StaleHandle { .. })), "I9");
        }
    }

    /// A handler that gives back some of what is live.
    fn allocate_under_pressure(&mut self) {
        let (live, allocator, clock) =
            (Arc::clone(&self.live), self.bench.allocator.clone(), self.bench.clock.clone());
        let registration = self.bench.allocator.on_pressure(1, move |need: Need| {
            let mut freed = 0;
            while freed < need.bytes {
                let Some(live) = live.lock().unwrap().pop() else { break };
                clock.finish(live.stream);
                freed += live.handle.bytes();
                allocator.free(live.handle).unwrap();
            }
            freed
        });
        self.allocate();
        drop(registration);
    }

    fn check(&self) {
        if let Err(wrong) = self.bench.allocator.audit() {
            panic!("{wrong}");
        }
        let statistics = self.bench.allocator.statistics();
        let (exists, granted) =
            (self.bench.device.backend().usage().bytes, self.bench.device.ledger().granted_bytes());
        assert_eq!(exists, statistics.all.reserved_bytes.current, "I5");
        assert_eq!(exists, granted, "I5");
        let live = self.live.lock().unwrap();
        let requested: u64 = live.iter().map(|live| live.handle.bytes()).sum();
        assert_eq!(statistics.all.requested_bytes.current, requested, "I6");
        assert_eq!(statistics.all.allocation.current, live.len() as u64, "I6");
    }

    fn finish(self) -> Vec<u64> {
        let addresses = self.live.lock().unwrap().iter().map(|live| live.handle.address().0).collect();
        for live in self.live.lock().unwrap().drain(..) {
            self.bench.allocator.free(live.handle).unwrap();
        }
        self.bench.clock.finish_all();
        self.bench.allocator.trim().unwrap();
        self.check();
        assert_eq!(self.bench.device.ledger().granted_bytes(), 0, "I12: a trim gives everything back");
        self.bench.assert_clean();
        addresses
    }
}

/// How many operations: `OPS`, or as many as a test run has time for.
fn operations() -> u64 {
    lighterage_testkit::number_from_env("OPS", 1_000_000)
}

#[test]
fn all_invariants_hold_after_every_operation() {
    let mut seeds = Rng::from_env(4);
    let (mut left, mut seen) = (operations(), [0; 6]);
    while left > 0 {
        let mut machine = Machine::new(Rng::new(seeds.bits()));
        let count = left.min(2000);
        for _ in 0..count {
            machine.step();
            machine.check();
        }
        let events = machine.bench.allocator.statistics().events;
        let rungs =
            [events.rungs[1], events.rungs[2], events.rungs[3], events.host_waits, events.pressure_calls];
        let rungs = rungs.into_iter().chain([machine.refused]);
        seen.iter_mut().zip(rungs).for_each(|(sum, count)| *sum += count);
        machine.finish();
        left -= count;
    }
    // The sequence should climb the whole ladder, or it proves little.
    assert!(seen.iter().all(|count| *count > 0), "rungs {seen:?}");
}

fn keeping() -> Settings {
    Settings { magazines: Magazines::Always, trace_events: 0, ..Bench::small_chunks() }
}

/// The same where the thread has a magazine for each stream; at the books is looked now and then only, since that empties them.
#[test]
fn all_invariants_hold_where_threads_keep_blocks() {
    let mut seeds = Rng::from_env(31);
    let (mut left, mut served, mut refused) = (operations() / 10, [0; 2], 0);
    // Where the budget is small nearly every request takes everything back.
    for pages in [PAGES, 8 * PAGES].into_iter().cycle() {
        if left == 0 {
            break;
        }
        let mut machine = Machine::of_pages(pages, Rng::new(seeds.bits()), keeping());
        let count = left.min(2000);
        for number in 0..count {
            machine.step();
            machine.bench.allocator.audit().unwrap();
            if number % 64 == 63 {
                machine.check();
            }
        }
        served.iter_mut().zip(machine.kept).for_each(|(sum, count)| *sum += count);
        refused += machine.refused;
        machine.finish();
        left -= count;
    }
    let [small, large] = served;
    assert!(small > 100 && large > 30 && refused > 0, "{served:?} served from magazines, {refused} refused");
}

#[test]
fn same_seed_gives_the_same_addresses() {
    let run = |seed, settings: &Settings| {
        let mut machine = Machine::with(Rng::new(seed), settings.clone());
        (0..3000).for_each(|_| machine.step());
        machine.finish()
    };
    let mut rng = Rng::from_env(14);
    for _ in 0..5 {
        let seed = rng.bits();
        for settings in [Bench::small_chunks(), keeping()] {
            assert_eq!(run(seed, &settings), run(seed, &settings), "I14");
        }
    }
}

/// pytorch #119452, #123548, #134338: assertions that fail where two settings meet.
#[test]
fn all_invariants_hold_whatever_the_settings() {
    let mut rng = Rng::from_env(20);
    for _ in 0..60 {
        let mut one_of = |values: &[u64]| values[usize::try_from(rng.below(values.len() as u64)).unwrap()];
        let settings = Settings {
            big_chunk_pages: one_of(&[0, 1, 2, 3, 8, 64]),
            headroom_permille: one_of(&[0, 50, 500, 1000]),
            slack_permille: [None, Some(0), Some(100)][usize::try_from(one_of(&[0, 1, 2])).unwrap()],
            stream_waits: one_of(&[0, 1]) == 1,
            event_every: u32::try_from(one_of(&[1, 2, 100])).unwrap(),
            watermark_bytes: one_of(&[0, PAGE, 100 * PAGE]),
            trace_events: usize::try_from(one_of(&[0, 1, 100])).unwrap(),
            magazines: [Magazines::Never, Magazines::Contended, Magazines::Always]
                [usize::try_from(one_of(&[0, 1, 2])).unwrap()],
            address_bytes: (one_of(&[0, 1]) == 1).then_some(PAGE),
            ..Settings::default()
        };
        let mut machine = Machine::with(Rng::new(rng.bits()), settings.clone());
        for _ in 0..400 {
            machine.step();
            machine.check();
        }
        machine.finish();
    }
}

#[test]
fn purposes_are_charged() {
    let settings = Settings { purpose: Purpose::Workspace, ..Bench::small_chunks() };
    let bench = Bench::new(PAGES, 1, settings);
    let handle = bench.streams[0].allocate(3 * PAGE, Tag::NONE).unwrap();
    let ledger = bench.device.ledger();
    assert!(ledger.granted_for(Purpose::Workspace) >= 3 * PAGE);
    assert_eq!(ledger.granted_for(Purpose::Workspace), ledger.granted_bytes(), "and nothing else");
    bench.allocator.free(handle).unwrap();
}
