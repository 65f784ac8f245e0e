//! A synthetic checkpoint over a slowed link: what a turn takes against what no turn can be shorter than.

use std::io::Write;
use std::ops::RangeInclusive;
use std::sync::Arc;

use lighterage_allocator::{Config as PoolConfig, Pool};
use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose, StreamKind};
use lighterage_ops::{Linear, Queue, linear};
use lighterage_pager::{Cycle, Goal, Link, Pager, Plan, UnitId, Visit};
use lighterage_shape::DType;
use serde::Serialize;

use super::busy;
use super::synthetic::{Opened, Synthetic};
use crate::commands::bench::timing::median;
use crate::failure::Result;
use crate::size::Size;
use crate::table::{self, Align};

/// One budget.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    /// Of weights.
    budget_bytes: u64,
    streamed_bytes_per_turn: u64,
    compute_seconds: f64,
    bound_seconds: f64,
    predicted_seconds: f64,
    /// Of the turn whose time over its bound is the median.
    seconds: f64,
}

impl Line {
    fn over_bound(&self) -> f64 {
        self.seconds / self.bound_seconds
    }
}

const LAYERS: usize = 24;
/// A layer is `[COLUMNS, SIDE]` in bf16: 4 MiB.
const COLUMNS: usize = 2048;
const SIDE: usize = 1024;
const BUDGETS: u64 = 8;
/// What a launch of fixed length takes: as long as two thirds of a layer's copy at 100 MB/s.
const LAUNCH_SECONDS: f64 = 28e-3;
/// Turns before those that are timed: the first loads the residents.
const WARM: usize = 2;
/// As many turns as there are notes for: each launch notes its beginning and its end, and the turn behind the last one when it begins.
pub(super) const TURNS: RangeInclusive<usize> = 1..=busy::NOTES / (2 * LAYERS) - WARM - 1;
/// Rows of the products.
const ROWS: usize = 1024;

/// Each layer is read by a launch that takes a fixed time.
pub(super) fn fixed(link: f64, turns: usize) -> Result<Vec<Line>> {
    let nothing = |_: &Queue<Host>| Ok(());
    measure(link, turns, Some(LAUNCH_SECONDS), nothing, |queue, pager, (), unit, note| {
        let lease = pager.lease(unit)?;
        busy::launch(queue.stream(), note, LAUNCH_SECONDS)?;
        drop(lease);
        busy::launch(queue.stream(), note + 1, 0.0)
    })
}

/// Each layer is multiplied with.
pub(super) fn products(link: f64, turns: usize) -> Result<Vec<Line>> {
    let activations = |queue: &Queue<Host>| {
        let x = queue.zeros(DType::Bf16, &[ROWS, SIDE], "x")?;
        Ok((x, queue.tensor(DType::Bf16, &[ROWS, COLUMNS], "out")?))
    };
    measure(link, turns, None, activations, |queue, pager, (x, out), unit, note| {
        let lease = pager.lease(unit)?;
        busy::launch(queue.stream(), note, 0.0)?;
        let weight = lease.tensor(0);
        let (x, out) = (x.view(), out.view());
        linear(queue, &Linear { x, weight, bias: None, activation: None, residual: None, out })?;
        drop(lease);
        busy::launch(queue.stream(), note + 1, 0.0)
    })
}

/// `visit` leases a unit, launches what reads it and what `prepare` made, and notes its beginning and its end: no launch of a turn lies outside of those notes. Plans are made for
/// launches of `known` length, or of the length that they have before anything is streamed.
fn measure<T>(
    link: f64,
    turns: usize,
    known: Option<f64>,
    prepare: impl Fn(&Queue<Host>) -> Result<T>,
    visit: impl Fn(&Queue<Host>, &Pager<Host>, &T, UnitId, usize) -> Result<()>,
) -> Result<Vec<Line>> {
    let file = Synthetic::new(&std::env::temp_dir(), LAYERS, COLUMNS, SIDE)?;
    let model = file.open()?;
    let page = HostConfig::default().page_bytes;
    let (least, most) = (
        Plan::minimum(&model.units, &model.cycle, page),
        Plan::resident(&model.units, &model.cycle, page).bytes(),
    );
    let run = |plan: &Plan, link: Option<f64>| -> Result<()> {
        let config = HostConfig { link_bytes_per_second: link, ..HostConfig::default() };
        // Beside the weights, room for what the launches read and write.
        let ledger = Ledger::new(plan.bytes() + (64 << 20));
        let device = Device::new(Host::new(config)?, ledger, Ledger::new(0));
        let stream = device.stream(StreamKind::Compute)?;
        let pool = PoolConfig { purpose: Purpose::Activations, reserve_bytes: 1 << 30 };
        let queue = Queue::new(Pool::new(&stream, pool)?);
        let pager = Pager::planned(&stream, Arc::clone(&model.units), plan)?;
        let prepared = prepare(&queue)?;
        for turn in 0..WARM + turns + 1 {
            for (index, unit) in model.cycle.iter().enumerate() {
                visit(&queue, &pager, &prepared, *unit, 2 * (turn * LAYERS + index))?;
            }
        }
        Ok(stream.synchronize()?)
    };
    let launch_seconds = match known {
        Some(seconds) => seconds,
        None => {
            run(&Plan::resident(&model.units, &model.cycle, page), None)?;
            median((WARM..WARM + turns).flat_map(launches).collect())
        }
    };
    let at = |budget: u64| {
        run(&plan(&model, link, budget, &[launch_seconds; LAYERS])?, Some(link))?;
        line(&model, link, budget, turns)
    };
    budgets(least, most, page).map(at).collect()
}

/// From a ring and some residents, an eighth of all, up to a page less than everything.
fn budgets(least: u64, most: u64, page: u64) -> impl Iterator<Item = u64> {
    let (low, high) = (3 * least, most - page);
    (0..BUDGETS).map(move |index| (low + (high - low) * index / (BUDGETS - 1)) / page * page)
}

/// Seconds of the launches of a turn, one by one.
fn launches(turn: usize) -> Vec<f64> {
    let notes = (0..LAYERS).map(|layer| 2 * (turn * LAYERS + layer));
    notes.map(|note| busy::noted(note + 1) - busy::noted(note)).collect()
}

/// Of the turns the one whose time over its bound is their median: the bound of each is that of its own launches, since what else the machine does slows them down in some
/// turns and not in others.
fn line(model: &Opened, link: f64, budget: u64, turns: usize) -> Result<Line> {
    let lines = (WARM..WARM + turns).map(|turn| line_of(model, link, budget, turn));
    let mut lines = lines.collect::<Result<Vec<Line>>>()?;
    lines.sort_by(|a, b| a.over_bound().total_cmp(&b.over_bound()));
    Ok(lines.swap_remove(lines.len() / 2))
}

fn line_of(model: &Opened, link: f64, budget: u64, turn: usize) -> Result<Line> {
    let first = |turn: usize| busy::noted(2 * turn * LAYERS);
    let planned = plan(model, link, budget, &launches(turn))?.turns()[0];
    Ok(Line {
        budget_bytes: budget,
        streamed_bytes_per_turn: planned.streamed_bytes,
        compute_seconds: planned.compute_seconds,
        bound_seconds: planned.bound_seconds,
        predicted_seconds: planned.seconds,
        seconds: first(turn + 1) - first(turn),
    })
}

fn plan(model: &Opened, link: f64, budget: u64, launches: &[f64]) -> Result<Plan> {
    let visit =
        |(unit, seconds): (&UnitId, &f64)| Visit { unit: *unit, held_seconds: *seconds, then_seconds: 0.0 };
    let visits = model.cycle.iter().zip(launches).map(visit).collect();
    let link = Link { bytes_per_second: link, copy_seconds: 0.0, slowdown: 0.0 };
    let page = HostConfig::default().page_bytes;
    let goal = Goal::new(vec![Cycle { visits, turns: 10 }], budget, page);
    Ok(Plan::new(&model.units, &Goal { link, ..goal })?)
}

pub(super) fn print(out: &mut impl Write, what: &str, lines: &[Line]) -> Result<()> {
    super::title(
        out,
        &format!("host, a slowed link, {LAYERS} layers of {}: {what}", Size(2 * (COLUMNS * SIDE) as u64)),
    )?;
    let head = ["budget", "streamed/turn", "compute s", "bound s", "predicted s", "achieved s", "/ bound"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(lines.iter().map(|line| {
        vec![
            Size(line.budget_bytes).to_string(),
            Size(line.streamed_bytes_per_turn).to_string(),
            format!("{:.4}", line.compute_seconds),
            format!("{:.4}", line.bound_seconds),
            format!("{:.4}", line.predicted_seconds),
            format!("{:.4}", line.seconds),
            format!("{:.3}", line.over_bound()),
        ]
    }));
    table::print(out, &[Align::Right; 7], &rows)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use lighterage_checkpoint::{Checkpoint, Shape};
    use lighterage_pager::{TensorSpec, UnitSpec, Units};

    use super::*;

    fn model() -> Opened {
        let shape = |layer: usize| Shape { name: layer.to_string(), extents: vec![COLUMNS, SIDE] };
        let shapes: Vec<Shape> = (0..LAYERS).map(shape).collect();
        let checkpoint = Checkpoint::of_shapes("layers", DType::Bf16, &shapes).expect("shapes");
        let mut units = Units::default();
        let mut add = |Shape { name, extents }: &Shape| {
            let weight = TensorSpec::whole(&checkpoint, name, extents, DType::Bf16).expect("a weight");
            units.add(UnitSpec { name: name.clone(), tensors: vec![weight] })
        };
        let cycle = shapes.iter().map(&mut add).collect();
        Opened { checkpoint, units: Arc::new(units), cycle }
    }

    /// What a plan itself is over its bound, before anything is measured: with launches of the fixed length, and as short as products are on two cores.
    #[test]
    fn plans_over_a_slowed_link_are_within_five_percent_of_their_bound() {
        let (model, page) = (model(), HostConfig::default().page_bytes);
        let least = Plan::minimum(&model.units, &model.cycle, page);
        let most = Plan::resident(&model.units, &model.cycle, page).bytes();
        for seconds in [LAUNCH_SECONDS, 20e-3, 11e-3, 6e-3] {
            for budget in budgets(least, most, page) {
                let turn = plan(&model, 100e6, budget, &[seconds; LAYERS]).expect("a plan").turns()[0];
                let ratio = turn.seconds / turn.bound_seconds;
                println!("{seconds} s, {budget} bytes: {ratio:.3}");
                assert!(
                    (1.0 - 1e-9..=1.05).contains(&ratio),
                    "{seconds} s, {budget} bytes: {ratio}, {turn:?}"
                );
            }
        }
    }
}
