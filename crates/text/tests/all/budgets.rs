//! Streamed weights give the bits of resident ones, and a dry pass on `Sim` finds the cycle out.

use std::sync::Arc;

use crate::common::{bits, ids, open, queue, t5_config, values};
use lighterage_allocator::{Config as PoolConfig, Pool};
use lighterage_device::{Backend, Device, Ledger, Purpose, Sim, SimConfig, StreamKind};
use lighterage_ops::Queue;
use lighterage_pager::{Pager, Plan, UnitId, Units};
use lighterage_shape::DType;
use lighterage_testkit::folder;
use lighterage_text::t5::T5;

const CASE: &str = "t5-tiny";

fn model() -> (T5, Arc<Units>) {
    let mut units = Units::default();
    let weights = open(&folder(CASE).join("model.safetensors"));
    let model = T5::new(t5_config(CASE), &weights, DType::Bf16, &ids(CASE), &mut units).unwrap();
    (model, Arc::new(units))
}

fn cycle_on<B: Backend>(queue: &Queue<B>) -> Vec<UnitId> {
    let (model, units) = model();
    let pager = Pager::resident(queue.stream(), units).unwrap();
    model.forward(queue, &pager).unwrap();
    pager.trace()
}

fn dry() -> Vec<UnitId> {
    let device =
        Device::new(Sim::new(SimConfig::default()).unwrap(), Ledger::new(1 << 30), Ledger::new(1 << 30));
    let stream = device.stream(StreamKind::Compute).unwrap();
    let config = PoolConfig { purpose: Purpose::Activations, reserve_bytes: 1 << 28 };
    cycle_on(&Queue::new(Pool::new(&stream, config).unwrap()))
}

#[test]
fn dry_pass_finds_the_order_of_the_real_run() {
    let cycle = dry();
    assert_eq!(cycle, cycle_on(&queue(2)));
    // Every unit once, in the order of registration: nothing is read twice in a pass.
    let (_, units) = model();
    assert_eq!(cycle, units.iter().map(|(id, _)| id).collect::<Vec<_>>());
}

#[test]
fn bits_do_not_depend_on_the_budget() {
    let cycle = dry();
    let run = |budget: u64| {
        let (model, units) = model();
        let queue = queue(2);
        let page = queue.device().info().page_bytes;
        let plan = Plan::within(&units, &cycle, budget, page).unwrap();
        let pager = Pager::new(queue.stream(), units, &cycle, &plan).unwrap();
        bits(&values(&queue, &model.forward(&queue, &pager).unwrap()))
    };
    let least = Plan::minimum(&model().1, &cycle, 64 << 10);
    let resident = run(1 << 30);
    for budget in [least, 2 * least, 3 * least] {
        assert_eq!(run(budget), resident, "{budget} bytes for weights");
    }
}
