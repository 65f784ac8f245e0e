//! Two models in one cycle, and turns without the second: residency is shared between them as one.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{error::Error, sync::Arc};

use lighterage_checkpoint::{Checkpoint, Shape};
use lighterage_device::{Device, Host, HostConfig, Ledger, StreamKind};
use lighterage_pager::{Cycle, Goal, Pager, Plan, TensorSpec, UnitId, UnitSpec, Units};
use lighterage_shape::DType;

/// Registers the layers of a model; here without a file.
fn layers(name: &str, count: usize, units: &mut Units) -> Result<Vec<UnitId>, Box<dyn Error>> {
    let shape = |layer| Shape { name: format!("{layer}.weight"), extents: vec![512, 512] };
    let shapes: Vec<Shape> = (0..count).map(shape).collect();
    let checkpoint = Checkpoint::of_shapes(name, DType::Bf16, &shapes)?;
    let add = |shape: &Shape| {
        let weight = TensorSpec::whole(&checkpoint, &shape.name, &shape.extents, DType::Bf16)?;
        Ok(units.add(UnitSpec { name: format!("{name}.{}", shape.name), tensors: vec![weight] }))
    };
    shapes.iter().map(add).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut units = Units::default();
    let control = layers("control", 4, &mut units)?;
    let main = layers("main", 12, &mut units)?;
    let both = [control, main.clone()].concat();
    // Forty steps with the control network, ten without it.
    let cycles =
        vec![Cycle { turns: 40, ..Cycle::untimed(&both) }, Cycle { turns: 10, ..Cycle::untimed(&main) }];
    let budget = 4 << 20;
    let device = Device::new(Host::new(HostConfig::default())?, Ledger::new(budget), Ledger::new(0));
    let plan = Plan::new(&units, &Goal::new(cycles, budget, device.info().page_bytes))?;
    let stream = device.stream(StreamKind::Compute)?;
    let pager = Pager::planned(&stream, Arc::new(units), &plan)?;
    for step in 0..50 {
        let kind = usize::from(step >= 40);
        pager.turn(kind)?;
        for unit in [&both, &main][kind] {
            let _lease = pager.lease(*unit)?; // launch what reads it, on `stream`
        }
    }
    let streamed: Vec<u64> = plan.turns().iter().map(|turn| turn.streamed_bytes).collect();
    println!("bytes streamed a turn: {streamed:?}, {} in all", pager.statistics().copied_bytes);
    Ok(())
}
