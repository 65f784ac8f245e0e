//! A pool that follows what another one recorded: same places, same peak, and nothing wrong where the run is another one.
#![expect(clippy::unwrap_used, reason = "a test fails where it should not")]

use std::sync::Arc;

use lighterage_allocator::{ALIGNMENT_BYTES, Buffer, Config, Error, Placement, Pool, Statistics};
use lighterage_device::{
    Backend, Device, Host, HostConfig, Ledger, Purpose, Sim, SimConfig, StreamKind, View,
};
use lighterage_shape::{DType, Layout};
use lighterage_testkit::Rng;

const PAGE: u64 = 4096;

fn host(seed: Option<u64>) -> Host {
    Host::new(HostConfig { page_bytes: PAGE, threads: 1, seed, ..HostConfig::default() }).unwrap()
}

fn sim() -> Sim {
    Sim::new(SimConfig { page_bytes: PAGE, ..SimConfig::default() }).unwrap()
}

fn pool<B: Backend>(backend: B, cap: u64) -> (Device<B>, Pool<B>) {
    let device = Device::new(backend, Ledger::new(cap), Ledger::new(0));
    let stream = device.stream(StreamKind::Compute).unwrap();
    let pool = Pool::new(&stream, Config { purpose: Purpose::Activations, reserve_bytes: 1 << 30 }).unwrap();
    (device, pool)
}

/// A program in parts: what each one asks for, and when it gives back.
#[derive(Clone, Copy, Debug)]
enum Act {
    Take(u64),
    /// Gives back the one of the living buffers that this number modulo their count says.
    Give(u64),
    Mark(&'static str),
}

/// Some parts that hand buffers on to each other. The body of each, from its mark on, leaves as many buffers as it finds.
fn program(rng: &mut Rng, parts: usize) -> Vec<Vec<Act>> {
    let part = |rng: &mut Rng| {
        let mut acts = Vec::new();
        for _ in 0..30 + rng.below(100) {
            let is_large = rng.below(3) == 0;
            acts.push(Act::Take(1 + rng.below(if is_large { 20 * PAGE } else { 1500 })));
            while rng.below(9) < 4 {
                acts.push(Act::Give(rng.bits()));
            }
        }
        acts
    };
    (0..parts).map(|_| part(rng)).collect()
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

/// Goes through a program; `begin` is called before each part. The offsets in order, and the peaks of the parts.
fn go<B: Backend>(
    pool: &Pool<B>,
    program: &[Vec<Act>],
    mut begin: impl FnMut(usize),
) -> (Vec<u64>, Vec<Statistics>) {
    let (mut live, mut offsets, mut peaks) = (Vec::<Buffer<B>>::new(), Vec::new(), Vec::new());
    for (number, part) in program.iter().enumerate() {
        pool.trim().unwrap();
        pool.reset_peaks();
        begin(number);
        for act in part {
            match *act {
                Act::Take(bytes) => {
                    let buffer = pool.allocate(bytes, "test").unwrap();
                    offsets.push(buffer.offset());
                    live.push(buffer);
                }
                Act::Give(_) if live.is_empty() => (),
                Act::Give(number) => drop(live.remove(index(number % live.len() as u64))),
                Act::Mark(label) => pool.mark(label),
            }
        }
        peaks.push(pool.statistics());
    }
    (offsets, peaks)
}

fn recorded(program: &[Vec<Act>]) -> (Vec<Arc<Placement>>, Vec<Statistics>) {
    let (_device, pool) = pool(sim(), u64::MAX);
    let (_, peaks) = go(&pool, program, |_| pool.record());
    (pool.recorded().place(PAGE), peaks)
}

fn followed<B: Backend>(
    backend: B,
    program: &[Vec<Act>],
    placements: &[Arc<Placement>],
) -> (Vec<u64>, Vec<Statistics>) {
    let (_device, pool) = pool(backend, u64::MAX);
    go(&pool, program, |part| pool.follow(&placements[part]))
}

#[test]
fn every_request_gets_the_place_that_was_found_for_it() {
    for seed in 0..30 {
        let program = program(&mut Rng::from_env(seed), 4);
        let (placements, online) = recorded(&program);
        assert_eq!(placements.len(), 4);
        let expected: Vec<u64> =
            placements.iter().flat_map(|part| part.slots().iter().map(|slot| slot.offset)).collect();
        let (offsets, peaks) = followed(sim(), &program, &placements);
        assert_eq!(offsets, expected);
        for (part, (placement, peak)) in placements.iter().zip(&peaks).enumerate() {
            assert_eq!(peak.reserved_peak_bytes, placement.bytes(), "part {part}");
            assert_eq!(peak.allocated_peak_bytes, placement.live_bytes(), "part {part}");
            assert_eq!(online[part].allocated_peak_bytes, placement.live_bytes(), "part {part}");
        }
        let last = peaks[3];
        assert_eq!((last.unplanned, last.planned), (0, last.allocations));
        for host_seed in [None, Some(seed)] {
            assert_eq!(followed(host(host_seed), &program, &placements), (offsets.clone(), peaks.clone()));
        }
        assert_eq!(recorded(&program).0, placements, "the same again");
    }
}

/// Together, over many programs: best fit is one of the things that are tried, but around what is carried.
#[test]
fn placements_take_less_than_best_fit() {
    let (mut planned, mut online, mut live) = (0, 0, 0);
    for seed in 0..20 {
        let (placements, peaks) = recorded(&program(&mut Rng::from_env(seed), 3));
        planned += placements.iter().map(|placement| placement.bytes()).sum::<u64>();
        live += placements.iter().map(|placement| placement.live_bytes()).sum::<u64>();
        online += peaks.iter().map(|peak| peak.reserved_peak_bytes).sum::<u64>();
    }
    println!("{planned} planned, {online} by best fit, {live} live");
    // Random sizes and lives leave gaps that no order fills; those of models do not (the pipeline's tests).
    assert!(2 * (planned - live) < online - live, "{planned}, {online}, {live} live");
}

/// One turn is recorded: something before it, the turn, something behind it.
fn looped(turns: usize, skips: &[usize]) -> Vec<Vec<Act>> {
    let turn = |index: usize| {
        let mut turn = vec![Act::Mark("turn"), Act::Take(3 * PAGE), Act::Take(700)];
        if !skips.contains(&index) {
            turn.extend([Act::Take(9 * PAGE), Act::Take(5 * PAGE), Act::Give(4), Act::Take(2 * PAGE)]);
            turn.extend([Act::Give(4), Act::Give(4)]);
        }
        turn.extend([Act::Mark("behind"), Act::Take(4 * PAGE), Act::Give(2), Act::Give(2), Act::Give(2)]);
        turn
    };
    let mut acts = vec![Act::Take(100), Act::Take(2 * PAGE)];
    acts.extend((0..turns).flat_map(turn));
    acts.extend([Act::Take(PAGE), Act::Give(0), Act::Give(0), Act::Give(0)]);
    vec![acts]
}

#[test]
fn one_turn_of_a_loop_serves_all_of_them() {
    let (placements, _) = recorded(&looped(1, &[]));
    for (turns, skips) in [(5, &[][..]), (7, &[1, 2, 5]), (3, &[0, 1, 2])] {
        let (offsets, peaks) = followed(host(Some(2)), &looped(turns, skips), &placements);
        assert_eq!((peaks[0].unplanned, peaks[0].planned), (0, offsets.len() as u64), "{skips:?}");
        assert!(peaks[0].reserved_peak_bytes <= placements[0].bytes());
        let slots: Vec<u64> = placements[0].slots().iter().map(|slot| slot.offset).collect();
        assert_eq!(offsets.last(), slots.last());
        if skips.is_empty() {
            assert_eq!(peaks[0].reserved_peak_bytes, placements[0].bytes());
            assert!(offsets[2..offsets.len() - 1].chunks(6).all(|turn| *turn == slots[2..8]), "{offsets:?}");
        }
    }
}

fn view<B: Backend>(buffer: &Buffer<B>) -> View<'_> {
    let layout = Layout::contiguous(DType::U8, &[usize::try_from(buffer.bytes()).unwrap()]);
    // SAFETY: the buffer has that many bytes, and work on it is ordered by its owner.
    unsafe { View::new(buffer.address(), layout, buffer.owner()) }
}

/// Another program than the recorded one: every buffer keeps its bytes, nothing overlaps, and what was not foreseen is counted.
#[test]
fn another_program_than_the_recorded_one_is_served_all_the_same() {
    let (mut planned, mut unplanned) = (0, 0);
    for seed in 0..20 {
        let mut rng = Rng::from_env(seed);
        let (placements, _) = recorded(&program(&mut rng, 1));
        let (_device, pool) = pool(host(Some(seed)), u64::MAX);
        pool.follow(&placements[0]);
        let mut live: Vec<(Buffer<Host>, u8)> = Vec::new();
        for step in 0..300_u64 {
            if rng.below(5) < 3 || live.is_empty() {
                // Now and then what the placement has there.
                let slots = placements[0].slots();
                let next = index(pool.statistics().planned).min(slots.len() - 1);
                let bytes = if rng.below(2) == 0 { slots[next].bytes } else { 1 + rng.below(8 * PAGE) };
                let buffer = pool.allocate(bytes, "test").unwrap();
                let (start, end) = (buffer.offset(), buffer.offset() + bytes);
                for (other, _) in &live {
                    assert!(end <= other.offset() || other.offset() + other.bytes() <= start);
                }
                let value = u8::try_from(step % 251).unwrap();
                pool.stream().fill(view(&buffer), value).unwrap();
                live.push((buffer, value));
            } else {
                let (buffer, value) = live.swap_remove(index(rng.below(live.len() as u64)));
                let bytes: Vec<u8> = pool.stream().read(view(&buffer)).unwrap().unwrap();
                assert!(bytes.iter().all(|byte| *byte == value), "step {step}");
            }
        }
        let found = pool.statistics();
        assert_eq!(found.planned + found.unplanned, found.allocations);
        (planned, unplanned) = (planned + found.planned, unplanned + found.unplanned);
    }
    assert!(planned > 100 && unplanned > 100, "{planned} and {unplanned}: both happen");
}

/// Pages that hold nothing go before more is taken than was planned; what lives decides, and then the budget.
#[test]
fn a_run_that_leaves_its_placement_keeps_to_its_bytes_where_it_can() {
    let program = [vec![Act::Take(2 * PAGE), Act::Take(4 * PAGE), Act::Give(1), Act::Take(PAGE)]];
    let (placements, _) = recorded(&program);
    assert_eq!(placements[0].bytes(), 6 * PAGE);
    let (device, pool) = pool(host(None), 8 * PAGE);
    pool.follow(&placements[0]);
    let kept = pool.allocate(2 * PAGE, "as planned").unwrap();
    drop(pool.allocate(4 * PAGE, "as planned").unwrap());
    // Five pages are behind `kept`, four of them mapped and free: six would be one too many.
    let other = pool.allocate(4 * PAGE + ALIGNMENT_BYTES, "not as planned").unwrap();
    assert!(device.ledger().peak_bytes() <= 7 * PAGE, "only what lives");
    drop((kept, other));
    let large = pool.allocate(8 * PAGE, "all that the budget has").unwrap();
    let Err(Error::OutOfMemory(report)) = pool.allocate(PAGE, "one too many") else { panic!("no room") };
    assert_eq!((report.requested, report.tag, report.cap), (PAGE, "one too many", 8 * PAGE));
    drop(large);
    assert_eq!(pool.statistics().unplanned, 2, "what was refused is not counted");
    pool.allocate(PAGE, "as planned").unwrap();
    assert_eq!(pool.statistics().planned, 3);
}

#[test]
fn only_what_was_asked_for_while_recording_is_placed() {
    let (_device, pool) = pool(sim(), u64::MAX);
    assert!(pool.recorded().place(PAGE).is_empty());
    let before = pool.allocate(PAGE, "before").unwrap();
    pool.record();
    let first = pool.allocate(PAGE, "first").unwrap();
    drop((before, first));
    let recording = pool.recorded();
    drop(pool.allocate(PAGE, "after").unwrap());
    assert_eq!(recording.trace().peak_bytes(), PAGE);
    assert_eq!(recording.place(PAGE)[0].slots().len(), 1);
}
