//! Steps that repeat: planned, replayed, and what is not as planned.

use lighterage_testkit::Rng;

use super::{Bench, PAGE};
use crate::{Error, Plan, StepHandle, Steps, Tag};

/// Sizes and which of the living is given back after each request.
fn script(rng: &mut Rng, count: usize) -> Vec<(u64, Option<usize>)> {
    let mut alive = 0;
    (0..count)
        .map(|_| {
            alive += 1;
            let gives = alive > 6 || rng.below(2) == 0;
            let gone = gives.then(|| usize::try_from(rng.below(alive)).unwrap());
            alive -= u64::from(gives);
            (1 + rng.below(3 * PAGE), gone)
        })
        .collect()
}

/// Runs a script; no two living buffers may meet. The addresses.
fn run(steps: &mut Steps<super::probe::Probe>, script: &[(u64, Option<usize>)]) -> (Vec<u64>, (u64, u64)) {
    let mut step = steps.begin("step");
    let mut alive: Vec<StepHandle> = Vec::new();
    let mut addresses = Vec::new();
    for (bytes, gone) in script {
        let new = step.allocate(*bytes, Tag::NONE).unwrap();
        let end = |handle: &StepHandle| handle.address().0 + handle.bytes();
        for other in &alive {
            let apart = end(&new) <= other.address().0 || end(other) <= new.address().0;
            assert!(apart, "I15: {new:?} meets {other:?}");
        }
        addresses.push(new.address().0);
        alive.push(new);
        if let Some(gone) = gone {
            let handle = alive.swap_remove(*gone);
            step.free(handle).unwrap();
            assert!(matches!(step.free(handle), Err(Error::StaleHandle { .. })), "I9");
        }
    }
    alive.into_iter().for_each(|handle| step.free(handle).unwrap());
    let counts = step.hits_and_misses();
    step.end().unwrap();
    (addresses, counts)
}

#[test]
fn a_step_that_repeats_is_looked_up() {
    let mut rng = Rng::from_env(8);
    for _ in 0..20 {
        let bench = Bench::new(200, 1, Bench::small_chunks());
        let mut steps = Steps::new(bench.streams[0].clone());
        let script = script(&mut rng, 60);
        assert_eq!(run(&mut steps, &script).1, (0, 0), "recorded");
        let (first, counts) = run(&mut steps, &script);
        assert_eq!(counts, (60, 0), "all as planned");
        let calls = bench.device.backend().calls();
        assert_eq!(run(&mut steps, &script), (first, (60, 0)), "the same addresses");
        assert_eq!(bench.device.backend().calls(), calls, "no driver call");
        bench.allocator.audit().unwrap();
        drop(steps);
        assert_eq!(bench.allocator.statistics().all.allocation.current, 0);
        bench.assert_clean();
    }
}

#[test]
fn a_deviation_is_served_and_met_again() {
    let mut rng = Rng::from_env(9);
    for _ in 0..50 {
        let bench = Bench::new(200, 1, Bench::small_chunks());
        let mut steps = Steps::new(bench.streams[0].clone());
        let planned = script(&mut rng, 80);
        run(&mut steps, &planned);
        let mut other = planned.clone();
        let place = usize::try_from(rng.below(60)).unwrap();
        match rng.below(3) {
            0 => other[place].0 += 4 * PAGE,
            1 => other.insert(place, (7 * PAGE + 1, None)),
            // Buffers live longer than planned: their bytes may not be handed out again.
            _ => other[place..place + 5].iter_mut().for_each(|(_, gone)| *gone = None),
        }
        // Which of the living is given back changes with it; it only has to exist.
        let (_, (hits, misses)) = run(&mut steps, &sensible(&other));
        assert!(hits + misses == other.len() as u64 && hits >= 20, "{hits} hits, {misses} misses");
    }
}

/// A script whose numbers of living buffers exist.
fn sensible(script: &[(u64, Option<usize>)]) -> Vec<(u64, Option<usize>)> {
    let mut alive = 0;
    let fix = |(bytes, gone): &(u64, Option<usize>)| {
        alive += 1;
        let gone = gone.map(|gone| gone.min(alive - 1));
        alive -= usize::from(gone.is_some());
        (*bytes, gone)
    };
    script.iter().map(fix).collect()
}

#[test]
fn a_plan_that_misses_too_often_is_made_anew() {
    let mut rng = Rng::from_env(10);
    let bench = Bench::new(200, 1, Bench::small_chunks());
    let mut steps = Steps::new(bench.streams[0].clone());
    run(&mut steps, &script(&mut rng, 40));
    let other = script(&mut rng, 40);
    run(&mut steps, &other);
    assert_eq!(steps.plan("step"), None, "dropped");
    run(&mut steps, &other);
    assert_eq!(run(&mut steps, &other).1, (40, 0));
}

#[test]
fn a_captured_step_allocates_nothing() {
    let bench = Bench::new(200, 1, Bench::small_chunks());
    let mut steps = Steps::new(bench.streams[0].clone());
    assert!(matches!(steps.capture("step"), Err(Error::Step { .. })));
    let planned = script(&mut Rng::from_env(11), 30);
    run(&mut steps, &planned);
    steps.capture("step").unwrap();
    let (pinned, _) = run(&mut steps, &planned);
    // Memory runs out around it: the arena is in use, so nothing of it moves (I8).
    let on = &bench.streams[0];
    let mut held = Vec::new();
    while let Ok(handle) = on.allocate(3 * PAGE, Tag::NONE) {
        held.push(handle);
    }
    bench.allocator.trim().unwrap();
    assert_eq!(run(&mut steps, &planned).0, pinned, "I8");
    let mut step = steps.begin("step");
    let error = step.allocate(100 * PAGE, bench.allocator.tag("logits")).unwrap_err();
    assert!(error.to_string().contains("request 0 of a captured step is 6553600 bytes (logits)"), "{error}");
}

/// pytorch #190308: an interrupted capture leaks its pool.
#[test]
fn an_interrupted_capture_gives_its_arena_back() {
    let bench = Bench::new(200, 1, Bench::small_chunks());
    let mut steps = Steps::new(bench.streams[0].clone());
    run(&mut steps, &script(&mut Rng::from_env(12), 30));
    steps.capture("step").unwrap();
    let interrupted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let mut step = steps.begin("step");
        let _held = step.allocate(u64::MAX, Tag::NONE).expect("what no plan foresees");
    }));
    assert!(interrupted.is_err());
    assert_eq!(bench.allocator.statistics().all.allocation.current, 0);
    bench.assert_clean();
}

/// pytorch #114320: what another stream asks for during a capture comes from the capture's pool, or the other way round.
#[test]
fn other_streams_are_no_part_of_a_capture() {
    let bench = Bench::new(200, 3, Bench::small_chunks());
    let mut steps = Steps::new(bench.streams[0].clone());
    let planned = [(3 * PAGE, None), (5 * PAGE, Some(0)), (2 * PAGE, None)];
    run(&mut steps, &planned);
    steps.capture("step").unwrap();
    let bytes = steps.plan("step").map(Plan::bytes).unwrap();
    let mut step = steps.begin("step");
    let first = step.allocate(3 * PAGE, Tag::NONE).unwrap();
    let side: Vec<_> =
        (1..3).map(|number| bench.streams[number].allocate(4 * PAGE, Tag::NONE).unwrap()).collect();
    let second = step.allocate(5 * PAGE, Tag::NONE).unwrap();
    let low = first.address().0.min(second.address().0);
    for handle in &side {
        let start = handle.address().0;
        assert!(start + 4 * PAGE <= low || start >= low + bytes, "{handle:?} lies in the arena at {low:#x}");
        // The arena's stream does not order it.
        bench.allocator.free(*handle).unwrap();
    }
    assert_eq!(step.hits_and_misses(), (2, 0));
}

#[test]
fn a_handle_of_an_earlier_step_frees_nothing() {
    let bench = Bench::new(200, 1, Bench::small_chunks());
    let mut steps = Steps::new(bench.streams[0].clone());
    let planned = [(PAGE, Some(0))];
    run(&mut steps, &planned);
    let mut step = steps.begin("step");
    let kept = step.allocate(PAGE, Tag::NONE).unwrap();
    step.end().unwrap();
    let mut step = steps.begin("step");
    let now = step.allocate(PAGE, Tag::NONE).unwrap();
    assert_eq!(now.address(), kept.address(), "the same slot");
    assert!(matches!(step.free(kept), Err(Error::StaleHandle { .. })), "I9");
    step.free(now).unwrap();
}

#[test]
fn a_refused_request_is_not_planned() {
    let bench = Bench::new(8, 1, Bench::small_chunks());
    let mut steps = Steps::new(bench.streams[0].clone());
    let mut step = steps.begin("step");
    let held = step.allocate(PAGE, Tag::NONE).unwrap();
    for bytes in [9 * PAGE, u64::MAX] {
        assert!(matches!(step.allocate(bytes, Tag::NONE), Err(Error::OutOfBudget(_))));
    }
    step.free(held).unwrap();
    step.end().unwrap();
    assert_eq!(steps.plan("step").map(Plan::bytes), Some(PAGE));
    let mut step = steps.begin("step");
    assert!(step.allocate(u64::MAX, Tag::NONE).is_err(), "and does not overflow");
}

#[test]
fn a_plan_made_elsewhere_is_taken() {
    let bench = Bench::new(200, 1, Bench::small_chunks());
    let mut steps = Steps::new(bench.streams[0].clone());
    let alloc = |id, bytes| crate::Op::Alloc { id, stream: 0, bytes };
    let trace =
        crate::Trace::new([alloc(0, PAGE), alloc(1, PAGE), crate::Op::Free { id: 0 }, alloc(2, PAGE)]);
    let plan = Plan::new(&trace);
    assert_eq!(plan.bytes(), 2 * PAGE);
    steps.install("step", plan).unwrap();
    let script = [(PAGE, None), (PAGE, Some(0)), (PAGE, None)];
    let (addresses, counts) = run(&mut steps, &script);
    assert_eq!(counts, (3, 0));
    assert_eq!(addresses[0], addresses[2]);
    steps.forget("step").unwrap();
    assert!(steps.forget("step").is_err());
}
