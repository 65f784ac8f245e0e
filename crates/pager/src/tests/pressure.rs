//! Less memory in the middle of a run, and more again: the same addresses, the same bytes.

use lighterage_allocator::{Allocator, Need, Settings, Tag};

use super::*;

/// What happens between two launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Nothing,
    Shrink(u64),
    Regrow,
}

/// A run of some turns on a device whose ledger has room for the budget and what launches write. `act` is asked before each lease, and again while it is held.
struct Pressed<'m> {
    model: &'m Model,
    host: HostConfig,
    budget: u64,
    /// Of the host, in bytes.
    host_budget: u64,
    turns: usize,
    fault: Option<Fault>,
}

impl Pressed<'_> {
    /// How many tensors launches saw wrong, and how many bytes went back and forth.
    fn run(&self, mut act: impl FnMut(usize, bool) -> Act) -> (usize, u64) {
        let Self { model, budget, turns, .. } = *self;
        let outputs = (model.total() * 2 + 512 * model.cycle.len() as u64 * 2) * turns as u64;
        let outputs = outputs.next_multiple_of(PAGE);
        let ledger = Ledger::new(budget / PAGE * PAGE + outputs);
        let device =
            Device::new(Host::new(self.host).unwrap(), ledger.clone(), Ledger::new(self.host_budget));
        let stream = device.stream(StreamKind::Compute).unwrap();
        let pool =
            Pool::new(&stream, Config { purpose: Purpose::Activations, reserve_bytes: outputs }).unwrap();
        let plan = model.plan(budget);
        let pager = Pager::build(&stream, Arc::clone(&model.units), plan.clone(), self.fault).unwrap();
        let (mut seen, mut places, mut moved) = (Vec::new(), Vec::new(), 0);
        let mut perform = |act: Act| {
            moved += match act {
                Act::Nothing => 0,
                Act::Shrink(bytes) => pager.shrink(bytes).unwrap(),
                Act::Regrow => pager.regrow().unwrap(),
            };
            let weights = ledger.granted_for(Purpose::Ring) + ledger.granted_for(Purpose::Resident);
            assert_eq!(weights, pager.present_plan().bytes(), "{act:?}");
            assert!(weights <= plan.bytes());
        };
        for (visit, unit) in model.cycle.repeat(turns).into_iter().enumerate() {
            perform(act(visit, false));
            let lease = pager.lease(unit).unwrap();
            let of_cycle = visit % model.cycle.len();
            seen.push(copy_out(&pool, lease.tensor(0), of_cycle, 0));
            perform(act(visit, true));
            let others = 1..model.units.get(unit).tensors.len();
            seen.extend(others.map(|tensor| copy_out(&pool, lease.tensor(tensor), of_cycle, tensor)));
            places.push(lease.tensor(0).address());
        }
        perform(Act::Regrow);
        assert_eq!(pager.present_plan().bytes(), plan.bytes());
        assert_eq!(places, places[..model.cycle.len()].repeat(turns), "an address changed");
        let expected = |seen: &Seen<Host>| &model.expected[model.cycle[seen.visit].0 as usize][seen.tensor];
        let wrong = seen.iter().filter(|seen| read(&stream, seen).as_ref() != Some(expected(seen))).count();
        drop((seen, pager));
        assert_eq!(ledger.granted_for(Purpose::Ring) + ledger.granted_for(Purpose::Resident), 0);
        assert_eq!(device.host_ledger().granted_bytes(), 0);
        (wrong, moved)
    }
}

fn pressed(model: &Model, host: HostConfig, budget: u64) -> Pressed<'_> {
    Pressed { model, host, budget, host_budget: 1 << 30, turns: 3, fault: None }
}

/// Shrinks as far as it goes at one visit, before the lease or in it, and regrows two visits later.
fn check_at_every_visit(filed: DType) {
    let model = Model::new(60, 40, filed, DType::Bf16);
    let [_, low, .., most] = model.budgets();
    for budget in [low, most] {
        let mut moves = 0;
        for visit in (0..2 * model.cycle.len()).step_by(7) {
            for held in [false, true] {
                let act = |now: usize, is_held: bool| match now.checked_sub(visit) {
                    Some(0) if is_held == held => Act::Shrink(u64::MAX),
                    Some(2) if is_held != held => Act::Regrow,
                    _ => Act::Nothing,
                };
                let (wrong, moved) = pressed(&model, seeded(visit as u64), budget).run(act);
                assert_eq!(wrong, 0, "at visit {visit}, {}", if held { "in the lease" } else { "before it" });
                moves += usize::from(moved > 0);
            }
        }
        assert!(2 * moves > model.cycle.len(), "{moves} runs gave something back");
    }
}

#[test]
fn residency_shrinks_and_regrows_at_any_visit() {
    check_at_every_visit(DType::Bf16);
}

#[test]
fn converted_residents_shrink_and_regrow_at_any_visit() {
    check_at_every_visit(DType::F32);
}

fn drawn(rng: &mut Rng, most: u64) -> Act {
    match rng.below(24) {
        0 => Act::Shrink(rng.below(most)),
        1 => Act::Shrink(1 + rng.below(3 * PAGE)),
        2 => Act::Regrow,
        _ => Act::Nothing,
    }
}

#[test]
fn any_pressure_under_any_interleaving_gives_the_same_bytes() {
    let mut rng = Rng::from_env(61);
    let mut moves = 0;
    for seed in 0..60 {
        let filed = if seed % 2 == 0 { DType::Bf16 } else { DType::F32 };
        let model = Model::new(seed, 8 + usize::try_from(seed % 40).unwrap(), filed, DType::Bf16);
        let budget = model.budgets()[usize::try_from(1 + rng.below(4)).unwrap()];
        let (wrong, moved) = pressed(&model, seeded(seed), budget).run(|_, _| drawn(&mut rng, budget));
        assert_eq!(wrong, 0, "seed {seed}");
        moves += moved;
    }
    assert!(moves > 0);
}

#[test]
fn pressure_on_threads_gives_the_same_bytes() {
    let mut rng = Rng::from_env(62);
    let host = HostConfig { page_bytes: PAGE, threads: 2, ..HostConfig::default() };
    for seed in 0..10 {
        let model = Model::new(seed, 20, DType::F32, DType::Bf16);
        let (wrong, _) = pressed(&model, host, model.total()).run(|_, _| drawn(&mut rng, model.total()));
        assert_eq!(wrong, 0, "seed {seed}");
    }
}

/// What becomes streamed wants page-locked memory; where there is none it goes through the stages.
#[test]
fn pressure_needs_no_host_memory() {
    let model = Model::new(63, 40, DType::F32, DType::Bf16);
    let [.., high, most] = model.budgets();
    for budget in [high, most] {
        let host_budget = model.plan(budget).pinned_bytes(&model.units, false).max(2 * PAGE);
        let mut rng = Rng::from_env(64);
        for seed in 0..10 {
            let run = Pressed { host_budget, ..pressed(&model, seeded(seed), budget) };
            let (wrong, _) = run.run(|_, _| drawn(&mut rng, budget));
            assert_eq!(wrong, 0, "budget {budget}, seed {seed}");
        }
    }
}

#[test]
fn giving_back_what_a_lease_holds_is_caught() {
    let model = Model::new(65, 10, DType::Bf16, DType::Bf16);
    let budget = model.total();
    let shrink =
        |visit: usize, held: bool| if held && visit % 5 == 2 { Act::Shrink(u64::MAX) } else { Act::Nothing };
    let wrong = |seed, fault| Pressed { fault, ..pressed(&model, seeded(seed), budget) }.run(shrink).0;
    assert!((0..10).all(|seed| wrong(seed, None) == 0));
    assert!((0..10).any(|seed| wrong(seed, Some(Fault::MovesHeldPages)) > 0));
}

/// One turn, every unit's first tensor compared.
fn turn(model: &Model, stream: &Stream<Host>, pager: &Pager<Host>) {
    pager.turn(0).unwrap();
    for unit in &model.cycle {
        let lease = pager.lease(*unit).unwrap();
        let got = stream.read::<u16>(lease.tensor(0)).unwrap().unwrap();
        assert_eq!(bytemuck::cast_slice::<u16, u8>(&got), model.expected[unit.0 as usize][0]);
    }
}

#[test]
fn a_cap_that_is_lowered_in_a_run_is_kept_to_from_the_next_turn_on() {
    let model = Model::new(66, 16, DType::Bf16, DType::Bf16);
    for budget in [model.budgets()[3], model.total()] {
        let (device, stream) = host(budget);
        let ledger = device.ledger();
        let pager = streaming(&model, &stream, budget).unwrap();
        turn(&model, &stream, &pager);
        // A packed tape wants a page more than the smallest budget has.
        for cap in [budget - 1, model.budgets()[1], model.minimum() + PAGE] {
            ledger.set_cap_bytes(cap);
            turn(&model, &stream, &pager);
            assert!(ledger.granted_bytes() <= cap, "{} of {cap}", ledger.granted_bytes());
            assert_eq!(ledger.granted_bytes(), pager.present_plan().bytes());
        }
        // Half of it comes back: after a turn without pressure it is used.
        ledger.set_cap_bytes(model.budgets()[1]);
        turn(&model, &stream, &pager);
        assert!(ledger.granted_bytes() <= model.minimum() + PAGE);
        turn(&model, &stream, &pager);
        let half = ledger.granted_bytes();
        assert!((model.minimum() + PAGE + 1..=model.budgets()[1]).contains(&half), "{half}");
        ledger.set_cap_bytes(budget);
        turn(&model, &stream, &pager);
        assert_eq!(ledger.granted_bytes(), pager.plan().bytes());
        assert!(*pager.present_plan() == *pager.plan());
        // The steady state is as it was.
        let copied = pager.statistics().copied_bytes;
        turn(&model, &stream, &pager);
        turn(&model, &stream, &pager);
        assert!(
            pager.statistics().copied_bytes - copied <= 3 * pager.plan().streamed_bytes() + model.total()
        );
    }
}

#[test]
fn a_cap_that_cannot_be_kept_changes_nothing() {
    let model = Model::new(67, 8, DType::Bf16, DType::Bf16);
    let (device, stream) = host(model.total());
    let pager = streaming(&model, &stream, model.total()).unwrap();
    turn(&model, &stream, &pager);
    device.ledger().set_cap_bytes(PAGE);
    turn(&model, &stream, &pager);
    assert_eq!(pager.shrink(u64::MAX).unwrap(), 0);
    assert_eq!(device.ledger().granted_bytes(), pager.plan().bytes());
    turn(&model, &stream, &pager);
}

#[test]
fn an_allocator_that_finds_no_room_gets_it_from_the_pager() {
    let model = Model::new(68, 60, DType::Bf16, DType::Bf16);
    let (device, stream) = host(model.total() + 4 * PAGE);
    let pager = Arc::new(streaming(&model, &stream, model.total()).unwrap());
    let allocator = Allocator::new(&device, Settings::default()).unwrap();
    let asked = Arc::clone(&pager);
    let _registration = allocator.on_pressure(0, move |need: Need| asked.shrink(need.bytes).unwrap_or(0));
    turn(&model, &stream, &pager);
    let wanted = (model.total() - model.minimum()) / 2;
    for _ in 0..3 {
        let lease = pager.lease(model.cycle[0]).unwrap();
        let buffer =
            allocator.on(&stream).unwrap().buffer::<u8>(usize::try_from(wanted).unwrap(), Tag::NONE).unwrap();
        drop(lease);
        assert!(pager.present_plan().resident_bytes() < pager.plan().resident_bytes());
        for unit in &model.cycle[1..] {
            let lease = pager.lease(*unit).unwrap();
            let got = stream.read::<u16>(lease.tensor(0)).unwrap().unwrap();
            assert_eq!(bytemuck::cast_slice::<u16, u8>(&got), model.expected[unit.0 as usize][0]);
        }
        turn(&model, &stream, &pager);
        drop(buffer);
        // The first one records events behind the work that used it, the second one finds them reached.
        allocator.trim().unwrap();
        stream.synchronize().unwrap();
        allocator.trim().unwrap();
        turn(&model, &stream, &pager);
        assert_eq!(
            pager.present_plan().bytes(),
            pager.plan().bytes(),
            "the pressure is over: {:?}",
            device.ledger()
        );
    }
}

#[test]
fn a_pager_of_any_order_gives_nothing() {
    let model = Model::new(69, 6, DType::Bf16, DType::Bf16);
    let (_device, stream) = host(1 << 30);
    let pager = Pager::resident(&stream, Arc::clone(&model.units)).unwrap();
    drop(pager.lease(UnitId(0)).unwrap());
    assert_eq!(pager.shrink(u64::MAX).unwrap(), 0);
    // A plan's pager whose leases leave the cycle.
    let pager = streaming(&model, &stream, model.total()).unwrap();
    drop(pager.lease(model.cycle[3]).unwrap());
    assert_eq!(pager.shrink(u64::MAX).unwrap(), 0);
    pager.turn(0).unwrap();
    assert!(pager.shrink(u64::MAX).unwrap() > 0);
}

#[test]
fn every_failing_call_under_pressure_is_survived() {
    let model = Model::new(70, 6, DType::F32, DType::Bf16);
    let mut failures = 0;
    for n in 1.. {
        let backend = Host::new(HostConfig { fail_call: Some(n), ..seeded(n) }).unwrap();
        let device = Device::new(backend, Ledger::new(model.total()), Ledger::new(1 << 30));
        let stream = device.stream(StreamKind::Compute).unwrap();
        let Ok(pager) = streaming(&model, &stream, model.total()) else { continue };
        for (visit, unit) in model.cycle.repeat(3).into_iter().enumerate() {
            let again = |call: &dyn Fn() -> Result<u64>| {
                call()
                    .or_else(|_| call())
                    .unwrap_or_else(|error| panic!("call {n} failed once, and then again: {error}"))
            };
            match visit % 4 {
                1 => assert!(again(&|| pager.shrink(u64::MAX)) <= model.total()),
                3 => assert!(again(&|| pager.regrow()) <= model.total()),
                _ => {}
            }
            let lease = leased_in_the_end(&model, &pager, unit, n, &mut failures);
            if visit % 4 == 2 {
                assert!(again(&|| pager.shrink(u64::MAX)) <= model.total());
            }
            drop(lease);
        }
        drop(pager);
        let _ = device.take_deferred();
        assert_eq!(device.ledger().granted_bytes(), 0, "call {n}");
        if device.backend().driver_calls() <= n {
            break;
        }
    }
    assert!(failures > 20, "only {failures} leases failed");
}
