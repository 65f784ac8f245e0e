use std::sync::Arc;

use lighterage_checkpoint::{Checkpoint, Shape};
use lighterage_device::{
    CallCost, Cost, Device, Kernel, Ledger, MemoryCosts, Rates, Sim, SimConfig, StreamKind, Workers,
};
use lighterage_shape::DType;
use lighterage_testkit::Rng;

use super::search::Question;
use super::*;
use crate::units::{TensorSpec, UnitSpec, Units};
use crate::{Error, Pager};

/// Units of so many bytes, without files.
pub(crate) fn specs(sizes: &[u64]) -> Vec<UnitSpec> {
    let shape = |(index, bytes): (usize, &u64)| Shape {
        name: index.to_string(),
        extents: vec![usize::try_from(*bytes / 2).unwrap()],
    };
    let shapes: Vec<Shape> = sizes.iter().enumerate().map(shape).collect();
    let checkpoint = Checkpoint::of_shapes("sizes", DType::Bf16, &shapes).unwrap();
    let spec = |shape: &Shape| {
        let tensor = TensorSpec::whole(&checkpoint, &shape.name, &shape.extents, DType::Bf16).unwrap();
        UnitSpec { name: shape.name.clone(), tensors: vec![tensor] }
    };
    shapes.iter().map(spec).collect()
}

/// Small random problems: what a plan may do, and what it should.
struct Small {
    units: Units,
    goal: Goal,
}

const SMALL_PAGE: u64 = 256;

impl Small {
    /// Up to `units` units of up to `pages` pages; a time of a unit is about that of its copy.
    fn new(rng: &mut Rng, units: u64, pages: u64) -> Self {
        let count = 1 + rng.below(units);
        let sizes: Vec<u64> = (0..count).map(|_| 128 * (1 + rng.below(2 * pages))).collect();
        let mut list = Units::default();
        let ids: Vec<UnitId> = specs(&sizes).into_iter().map(|spec| list.add(spec)).collect();
        let speed = [0.3, 1.0, 3.0][usize::try_from(rng.below(3)).unwrap()];
        let mut visits: Vec<Visit> = Vec::new();
        for unit in &ids {
            let held_seconds = speed * 40.0 * (1.0 + rng.below(12) as f64);
            let then_seconds = if rng.below(3) == 0 { speed * 20.0 * rng.below(9) as f64 } else { 0.0 };
            visits.push(Visit { unit: *unit, held_seconds, then_seconds });
        }
        let link = Link { bytes_per_second: 1.0, copy_seconds: 0.0, slowdown: 0.0 };
        let cycles = vec![Cycle { visits, turns: 20 }];
        Self { units: list, goal: Goal { link, ..Goal::new(cycles, 0, SMALL_PAGE) } }
    }

    fn cycle(&self) -> Vec<UnitId> {
        self.goal.cycles[0].visits.iter().map(|visit| visit.unit).collect()
    }

    fn minimum(&self) -> u64 {
        Plan::minimum(&self.units, &self.cycle(), SMALL_PAGE)
    }

    fn most(&self) -> u64 {
        Plan::resident(&self.units, &self.cycle(), SMALL_PAGE).bytes()
    }
}

/// The best of all choices of streamed pages and ring lengths.
fn brute_force(question: &Question<'_>) -> (f64, Vec<u32>, u32) {
    let caps: Vec<u32> =
        question.tape.spans.iter().map(|span| u32::try_from(span.owned.len()).expect("tiny")).collect();
    let mut best = (f64::MAX, Vec::new(), 0);
    let mut streamed = vec![0; caps.len()];
    loop {
        let total: u32 = streamed.iter().sum();
        let resident = question.tape.pages - total;
        if resident < question.pages
            && let Some(choice) = question.choice(&streamed, question.pages - resident)
        {
            let script = Script::new(choice.homes.clone(), choice.ring_pages);
            let seconds = steady(question.tape, question.link, &script, &question.cycles[0]).seconds;
            if seconds < best.0 {
                best = (seconds, streamed.clone(), choice.ring_pages);
            }
        }
        let Some(next) = (0..caps.len()).find(|index| streamed[*index] < caps[*index]) else { return best };
        streamed[next] += 1;
        streamed[..next].fill(0);
    }
}

#[test]
fn tiny_plans_are_within_two_percent_of_the_best() {
    let mut rng = Rng::from_env(50);
    let (mut worst, mut cases) = (1.0_f64, 0);
    for _ in 0..300 {
        let small = Small::new(&mut rng, 5, 4);
        let (least, most) = (small.minimum(), small.most());
        if least >= most {
            continue;
        }
        let budget_bytes = least + rng.below((most - least) / SMALL_PAGE + 1) * SMALL_PAGE;
        let goal = Goal { budget_bytes, ..small.goal.clone() };
        let plan = Plan::new(&small.units, &goal).unwrap();
        let question = Question::new(plan.tape(), &goal);
        if question.tape.pages <= question.pages {
            continue;
        }
        let (best, streamed, ring) = brute_force(&question);
        let ratio = plan.turns()[0].seconds / best;
        worst = worst.max(ratio);
        cases += 1;
        assert!(ratio <= 1.02, "{best} s with {streamed:?} and a ring of {ring}, not {plan:?}");
    }
    assert!(cases > 150, "{cases} cases");
    println!("at most {worst} times the best");
}

/// What a search leaves out is no better than it thinks: with every ring, by the score of its choice.
#[test]
fn no_choice_is_better_than_its_least_score() {
    let mut rng = Rng::from_env(53);
    let (mut cases, mut tight) = (0, 0);
    for _ in 0..40 {
        let small = Small::new(&mut rng, 40, 12);
        let (least, most) = (small.minimum(), small.most());
        let budget_bytes = least + rng.below((most - least) / SMALL_PAGE + 1) * SMALL_PAGE;
        let goal = Goal { budget_bytes, ..small.goal.clone() };
        let plan = Plan::new(&small.units, &goal).unwrap();
        let question = Question::new(plan.tape(), &goal);
        let weights = question.weights(1.0);
        for ring in 1..=question.pages.min(question.tape.pages) {
            let Some(choice) = question.of_ring(ring, &weights) else { continue };
            let (least, score) = (question.least_score(ring), question.score(&choice));
            assert!(least <= score, "a ring of {ring} of {}: {least}, {score}", question.pages);
            cases += 1;
            tight += usize::from(least > 0.98 * score);
        }
    }
    assert!(tight > 100 && cases > 1000, "{tight} of {cases} are near");
}

/// Sums from the beginning of the cycle find the windows that all windows would have found, to the bit.
#[test]
fn the_bound_is_that_of_all_windows() {
    let mut rng = Rng::from_env(54);
    for case in 0..200 {
        let mut small = Small::new(&mut rng, 30, 12);
        if case % 4 == 0 {
            // A unit that is visited twice.
            let visit = small.goal.cycles[0].visits[0];
            small.goal.cycles[0].visits.push(visit);
        }
        let memory = rng.below(small.most() + 1);
        let (tape, cycle) =
            (Tape::new(&small.units, small.cycle(), SMALL_PAGE, false), &small.goal.cycles[0]);
        let link = Link { bytes_per_second: 0.7, ..small.goal.link };
        let all = bound::lower_bound_of_all(&tape, &link, cycle, memory);
        assert_eq!(bound::lower_bound(&tape, &link, cycle, memory).to_bits(), all.to_bits(), "case {case}");
    }
}

/// A launch that takes so many seconds at a rate of one FLOP a second, and reads nothing.
struct Busy;

impl Kernel for Busy {
    type Params = f64;
    const NAME: &'static str = "linear_bf16";
    unsafe fn host(_: &f64, _: &Workers) {}
    fn cost(seconds: &f64) -> Cost {
        Cost { flops: *seconds, bytes: 0.0 }
    }
}

/// A byte over the link takes a second, and calls take no time: what [`Small`] is made of.
const RATES: Rates = Rates {
    product_flops: 1.0,
    attention_flops: 1.0,
    vector_flops: 1.0,
    memory_bytes: 1.0,
    link_bytes: 1.0,
    pageable_bytes: 1.0,
    lock_bytes: f64::INFINITY,
    read_bytes: f64::INFINITY,
    launch_seconds: 0.0,
    copy_seconds: 0.0,
    call_seconds: 0.0,
    slowdown: 0.0,
    memory_calls: MemoryCosts::FREE,
};

/// A run on `Sim`, within a ledger that has the budget and no byte more.
struct OnSim<'a> {
    small: &'a Small,
    device: Device<Sim>,
    pager: Pager<Sim>,
}

impl<'a> OnSim<'a> {
    fn new(small: &'a Small, plan: &Plan, budget: u64, rates: Rates) -> Self {
        let sim = SimConfig { page_bytes: SMALL_PAGE, rates: Some(rates), ..SimConfig::default() };
        let device = Device::new(Sim::new(sim).unwrap(), Ledger::new(budget), Ledger::new(1 << 30));
        let stream = device.stream(StreamKind::Compute).unwrap();
        let pager = Pager::planned(&stream, Arc::new(small.units.clone()), plan).unwrap();
        Self { small, device, pager }
    }

    /// So many turns of a kind; when all is done.
    fn turns(&self, kind: usize, count: usize) -> f64 {
        let stream = self.pager.stream();
        let launch = |seconds: f64| {
            // SAFETY: the kernel touches nothing.
            unsafe { stream.launch::<Busy>(&seconds) }.unwrap();
        };
        for _ in 0..count {
            self.pager.turn(kind).unwrap();
            for visit in &self.small.goal.cycles[kind].visits {
                let lease = self.pager.lease(visit.unit).unwrap();
                launch(visit.held_seconds);
                drop(lease);
                launch(visit.then_seconds);
            }
        }
        stream.synchronize().unwrap();
        self.device.backend().now_seconds()
    }
}

/// Seconds of a turn in the long run.
fn on_sim(small: &Small, plan: &Plan, budget: u64, rates: Rates) -> f64 {
    let run = OnSim::new(small, plan, budget, rates);
    let marks = [(); 3].map(|()| run.turns(0, 12));
    assert_eq!(run.device.ledger().peak_bytes(), plan.bytes());
    // Each synchronisation lets copies run ahead, which shortens the turn behind it: the same in both differences.
    (marks[2] - marks[1]) / 12.0
}

#[test]
fn random_plans_take_on_sim_what_they_say() {
    let mut rng = Rng::from_env(51);
    let mut streamed = 0;
    for case in 0..200 {
        let small = Small::new(&mut rng, 30, 12);
        let (least, most) = (small.minimum(), small.most());
        let budget = least + rng.below((most - least) / SMALL_PAGE + 1) * SMALL_PAGE;
        let goal = Goal { budget_bytes: budget, ..small.goal.clone() };
        let plan = Plan::new(&small.units, &goal).unwrap();
        let turn = plan.turns()[0];
        assert!(
            plan.bytes() <= budget && turn.seconds >= turn.bound_seconds * (1.0 - 1e-9),
            "case {case}: {turn:?}"
        );
        let seconds = on_sim(&small, &plan, budget, RATES);
        let ratio = seconds / turn.seconds;
        assert!((0.99..=1.01).contains(&ratio), "case {case}, {budget} bytes: {seconds} s, {turn:?}");
        streamed += usize::from(turn.streamed_bytes > 0);
    }
    assert!(streamed > 100, "{streamed} cases stream");
}

/// The calls that the plan counts are those that a pager makes: each kind of them has a cost of its own.
#[test]
fn mapping_takes_on_sim_what_the_plan_says() {
    let each = |seconds, seconds_per_page, seconds_per_map| CallCost {
        seconds_per_page,
        seconds_per_map,
        ..CallCost::of(seconds)
    };
    let memory_calls = MemoryCosts {
        reserve: each(1000.0, 0.25, 0.0),
        create: CallCost { seconds_per_chunk: 0.125, ..each(3.0, 0.5, 0.0) },
        destroy: CallCost::of(7.0),
        map: each(11.0, 0.75, 0.0),
        set_access: each(13.0, 1.25, 17.0),
        unmap: each(19.0, 1.5, 23.0),
    };
    let mut rng = Rng::from_env(56);
    let mut streamed = 0;
    for case in 0..50 {
        let small = Small::new(&mut rng, 30, 12);
        let (least, most) = (small.minimum(), small.most());
        let budget = least + rng.below((most - least) / SMALL_PAGE + 1) * SMALL_PAGE;
        let host = HostRates { memory_calls, ..HostRates::FREE };
        let goal = Goal { budget_bytes: budget, host, ..small.goal.clone() };
        let plan = Plan::new(&small.units, &goal).unwrap();
        let planned = Mapping::of(&plan);
        let rates = Rates { memory_calls, ..RATES };
        let OnSim { device, pager, .. } = OnSim::new(&small, &plan, budget, rates);
        let begin_seconds = device.backend().memory_calls().seconds;
        drop(pager);
        let end_seconds = device.backend().memory_calls().seconds - begin_seconds;
        for (what, got, planned) in
            [("begin", begin_seconds, planned.begin_seconds), ("end", end_seconds, planned.end_seconds)]
        {
            let text = format!("case {case}, {budget} of {most} bytes, {what}: {got} s, planned {planned}");
            assert!((got / planned - 1.0).abs() < 1e-9, "{text}");
        }
        streamed += usize::from(plan.ring_bytes() > 0);
    }
    assert!(streamed > 20, "{streamed} cases stream");
}

/// Copies that slow launches down, and that take a moment before their first byte.
#[test]
fn random_plans_for_a_busy_memory_take_on_sim_what_they_say() {
    let mut rng = Rng::from_env(55);
    let (mut streamed, mut worst) = (0, 0.0_f64);
    for case in 0..100 {
        let small = Small::new(&mut rng, 30, 12);
        let (least, most) = (small.minimum(), small.most());
        let budget = least + rng.below((most - least) / SMALL_PAGE + 1) * SMALL_PAGE;
        let slowdown = 0.01 * (1 + rng.below(30)) as f64;
        let link = Link { bytes_per_second: 1.0, copy_seconds: rng.below(40) as f64, slowdown };
        let goal = Goal { budget_bytes: budget, link, ..small.goal.clone() };
        let plan = Plan::new(&small.units, &goal).unwrap();
        let rates = Rates { copy_seconds: link.copy_seconds, slowdown, ..RATES };
        let (seconds, turn) = (on_sim(&small, &plan, budget, rates), plan.turns()[0]);
        worst = worst.max((seconds / turn.seconds - 1.0).abs());
        println!("case {case}, {budget} bytes, {link:?}: {} of {turn:?}", seconds / turn.seconds);
        streamed += usize::from(turn.streamed_bytes > 0);
    }
    println!("worst {worst}");
    assert!(streamed > 50, "{streamed} cases stream");
    assert!(worst <= 0.01, "{worst}");
}

#[test]
fn a_run_that_begins_with_a_kind_that_the_goal_lacks_is_refused() {
    let small = Small::new(&mut Rng::new(5), 8, 4);
    for (first_kind, cycles) in [(1, 1), (usize::MAX, 1), (1, 0)] {
        let goal = Goal { first_kind, budget_bytes: small.most(), ..small.goal.clone() };
        let goal = Goal { cycles: goal.cycles[..cycles].to_vec(), ..goal };
        let refused = Plan::new(&small.units, &goal).expect_err("no such kind");
        let Error::Turn { kind, cycles: known } = refused else { panic!("{refused}") };
        assert_eq!((kind, known), (first_kind, cycles));
    }
    let nothing = Goal { cycles: Vec::new(), ..small.goal };
    assert_eq!(Plan::new(&small.units, &nothing).unwrap().bytes(), 0);
}

/// Turns of two kinds at the same addresses, whichever comes first: each kind at its own pace, and the whole run, with what the changes cost.
#[test]
fn turns_of_two_kinds_take_on_sim_what_they_say() {
    let mut rng = Rng::from_env(52);
    let mut streamed = 0;
    for case in 0..100 {
        let mut small = Small::new(&mut rng, 20, 12);
        let cut = usize::try_from(rng.below(small.goal.cycles[0].visits.len() as u64)).unwrap();
        let visits = small.goal.cycles[0].visits[cut..].to_vec();
        let first_kind = usize::try_from(rng.below(2)).unwrap();
        small.goal.cycles = vec![
            Cycle { turns: 20 + rng.below(20), ..small.goal.cycles[0].clone() },
            Cycle { visits, turns: 20 + rng.below(20) },
        ];
        let (least, most) = (small.minimum(), small.most());
        let budget = least + rng.below((most - least) / SMALL_PAGE + 1) * SMALL_PAGE;
        let goal = Goal { budget_bytes: budget, first_kind, ..small.goal.clone() };
        let plan = Plan::new(&small.units, &goal).unwrap();
        let run = OnSim::new(&small, &plan, budget, RATES);
        let all = |kind: usize| usize::try_from(plan.turns()[kind].count).unwrap();
        // The first, half of a kind, all of the other, and the rest: what a window in the middle of a loop does.
        let first = run.turns(first_kind, 1);
        run.turns(first_kind, all(first_kind) / 2);
        run.turns(1 - first_kind, all(1 - first_kind));
        let seconds = run.turns(first_kind, all(first_kind) - all(first_kind) / 2 - 1);
        assert_eq!(run.device.ledger().peak_bytes(), plan.bytes());
        let turns = plan.turns();
        for turn in turns {
            assert!(turn.seconds >= turn.bound_seconds * (1.0 - 1e-9), "{turn:?}");
        }
        // What the ring was read ahead with for the kind before is in vain, and for the new kind nothing is there: one time that it crosses the link for each change, and no more.
        let change = (plan.ring_bytes() + SMALL_PAGE) as f64;
        for (what, got, planned, spare) in [
            ("the first turn", first, plan.first_turn_seconds(), 0.0),
            ("all", seconds, plan.seconds(), 2.0 * change),
        ] {
            let text = format!(
                "case {case}, {budget} of {most} bytes, {what}: {got} s, planned {planned}, {turns:?}"
            );
            assert!(got >= 0.99 * planned && got <= 1.01 * planned + spare, "{text}");
        }
        streamed += usize::from(turns[1].streamed_bytes > 0);
        let (mean, counts) =
            (plan.mean_turn().unwrap(), [0, 1].map(|kind| all(kind) - usize::from(kind == first_kind)));
        let sum = counts[0] as f64 * turns[0].seconds + counts[1] as f64 * turns[1].seconds;
        assert!(
            (mean.seconds * (counts[0] + counts[1]) as f64 / sum - 1.0).abs() < 1e-12,
            "{mean:?} of {turns:?}"
        );
    }
    assert!(streamed > 40, "{streamed} cases stream");
}
