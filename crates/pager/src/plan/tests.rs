use lighterage_checkpoint::{Checkpoint, Shape};
use lighterage_shape::DType;
use lighterage_testkit::Rng;

use super::*;
use crate::units::{TensorSpec, UnitSpec, Units};

/// Units of so many bytes, without files.
fn specs(sizes: &[u64]) -> Vec<UnitSpec> {
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

const PAGE: u64 = 2 << 20;

/// Numbers only.
struct Flux {
    units: Vec<(u64, f64, f64)>,
}

impl Flux {
    fn linear(&mut self, rows: f64, n: f64, k: f64, then: f64, rate: f64) {
        let bytes = (2.0 * n * k + 2.0 * n) as u64;
        self.units.push((bytes, 2.0 * rows * n * k / rate, then));
    }

    fn blocks(
        &mut self,
        doubles: usize,
        singles: usize,
        text: f64,
        image: f64,
        extra: bool,
        gemm: f64,
        att: f64,
    ) {
        let (d, s) = (3072.0, text + image);
        let attention = 4.0 * s * s * d / att;
        for _ in 0..doubles {
            self.linear(image, 3.0 * d, d, 0.0, gemm);
            self.linear(text, 3.0 * d, d, 0.0, gemm);
            self.units.push((2048, 3e-5, attention));
            self.linear(image, d, d, 3e-5, gemm);
            self.linear(text, d, d, 1e-5, gemm);
            self.linear(image, 4.0 * d, d, 0.0, gemm);
            self.linear(image, d, 4.0 * d, 0.0, gemm);
            self.linear(text, 4.0 * d, d, 0.0, gemm);
            self.linear(text, d, 4.0 * d, 3e-5, gemm);
            if extra {
                self.linear(image, d, d, 0.0, gemm);
            }
        }
        for _ in 0..singles {
            self.linear(s, 3.0 * d, d, 0.0, gemm);
            self.linear(s, 4.0 * d, d, 0.0, gemm);
            self.units.push((1024, 3e-5, attention));
            self.linear(s, d, 5.0 * d, 3e-5, gemm);
            if extra {
                self.linear(image, d, d, 0.0, gemm);
            }
        }
    }
}

#[test]
fn experiment() {
    for (name, gemm, att, link) in [
        ("h100", 700e12, 630e12, 55e9),
        ("5090", 149e12, 134e12, 55e9),
        ("4090", 117e12, 105e12, 26e9),
        ("3090", 50e12, 45e12, 26e9),
    ] {
        for infuse in [false, true] {
            let mut flux = Flux { units: Vec::new() };
            if infuse {
                flux.blocks(4, 10, 8.0, 3600.0, true, gemm, att);
            }
            flux.blocks(19, 38, 512.0, 3600.0, false, gemm, att);
            let mut units = Units::default();
            let mut visits = Vec::new();
            let sizes: Vec<u64> = flux.units.iter().map(|unit| unit.0).collect();
            let specs = specs(&sizes);
            for (spec, (_, held, then)) in specs.into_iter().zip(&flux.units) {
                let unit = units.add(spec);
                visits.push(Visit { unit, held_seconds: *held, then_seconds: *then });
            }
            let link = Link { bytes_per_second: link, copy_seconds: 2e-6, slowdown: 0.0 };
            for budget in [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0] {
                let cycles = vec![Cycle { visits: visits.clone(), turns: 50 }];
                let goal = Goal { link, ..Goal::new(cycles, (budget * 1e9) as u64, PAGE) };
                let start = std::time::Instant::now();
                let plan = Plan::new(&units, &goal).unwrap();
                let took = start.elapsed().as_secs_f64() * 1e3;
                let turn = plan.turns()[0];
                println!(
                    "{name} {infuse} {budget}: {:.4} s bound {:.4} ratio {:.4} C {:.4} S/B {:.4} K {} MB, {took:.2} ms",
                    turn.seconds,
                    turn.bound_seconds,
                    turn.seconds / turn.bound_seconds,
                    turn.compute_seconds,
                    turn.copy_seconds,
                    plan.ring_bytes() / 1_000_000
                );
            }
        }
    }
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
    let caps: Vec<u32> = question.tape.spans.iter().map(|span| span.owned.len() as u32).collect();
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
        if ratio > 1.02 {
            println!(
                "BAD {ratio:.3}: {} s {best} s M {} {:?} {:?} vs {streamed:?} {ring} {:?}",
                plan.turns()[0].seconds,
                question.pages,
                plan.choice.streamed,
                plan.choice.ring_pages,
                goal.cycles[0]
                    .visits
                    .iter()
                    .map(|visit| (small.units.bytes(visit.unit), visit.held_seconds, visit.then_seconds))
                    .collect::<Vec<_>>()
            );
        }
    }
    assert!(cases > 150, "{cases} cases");
    println!("worst {worst}");
}
