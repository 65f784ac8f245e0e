//! Pages the layers of any safetensors file through a loop of one's own: `cargo run -p lighterage-pager --example any_file -- FILE BYTES`.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{collections::BTreeMap, error::Error, sync::Arc};

use lighterage_checkpoint::{Checkpoint, Unmodified};
use lighterage_device::{Device, Host, HostConfig, Ledger, StreamKind};
use lighterage_pager::{Pager, Plan, TensorSpec, UnitSpec, Units};
use lighterage_shape::DType;

fn main() -> Result<(), Box<dyn Error>> {
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/demo/base/transformer");
    let path = std::env::args().nth(1).unwrap_or_else(|| demo.to_owned());
    let budget = std::env::args().nth(2).map_or(Ok(4 << 20), |bytes| bytes.parse::<u64>())?;
    // SAFETY: nobody is to change the file while this runs.
    let checkpoint = Checkpoint::open(path.as_ref(), unsafe { Unmodified::promise() })?;
    // A unit for each module: its weight, its bias, whatever it has.
    let mut modules: BTreeMap<&str, Vec<TensorSpec>> = BTreeMap::new();
    for tensor in checkpoint.tensors().filter(|tensor| matches!(tensor.dtype(), DType::F32 | DType::Bf16)) {
        let module = tensor.name().rsplit_once('.').map_or("", |(module, _)| module);
        let spec = TensorSpec::whole(&checkpoint, tensor.name(), tensor.shape(), tensor.dtype())?;
        modules.entry(module).or_default().push(spec);
    }
    let mut units = Units::default();
    let cycle: Vec<_> = modules
        .into_iter()
        .map(|(name, tensors)| units.add(UnitSpec { name: name.to_owned(), tensors }))
        .collect();
    let device = Device::new(Host::new(HostConfig::default())?, Ledger::new(budget), Ledger::new(u64::MAX));
    let stream = device.stream(StreamKind::Compute)?;
    let plan = Plan::within(&units, &cycle, budget, device.info().page_bytes)?;
    let pager = Pager::planned(&stream, Arc::new(units), &plan)?;
    for unit in cycle.repeat(3) {
        let _lease = pager.lease(unit)?; // launch what reads `_lease.tensor(0)` on `stream`
    }
    println!("{} units, {} bytes streamed a turn", cycle.len(), plan.streamed_bytes());
    Ok(())
}
