//! Pages three layers of a checkpoint through a loop, in a budget with room for two of them.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{error::Error, sync::Arc};

use lighterage_checkpoint::{Checkpoint, NewTensor, Unmodified, write};
use lighterage_device::{Device, Host, HostConfig, Ledger, StreamKind};
use lighterage_pager::{Pager, Plan, TensorSpec, UnitSpec, Units};
use lighterage_shape::DType;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.safetensors");
    let names = ["blocks.0.weight", "blocks.1.weight", "blocks.2.weight"];
    let (dtype, shape, bytes) = (DType::Bf16, &[512, 512][..], &vec![0x3f; 512 * 512 * 2][..]);
    write(&path, &names.map(|name| NewTensor { name, dtype, shape, bytes }))?;
    // SAFETY: nobody else knows the file.
    let checkpoint = Checkpoint::open(&path, unsafe { Unmodified::promise() })?;
    let (mut units, mut cycle) = (Units::default(), Vec::new());
    for name in names {
        let tensors = vec![TensorSpec::whole(&checkpoint, name, shape, dtype)?];
        cycle.push(units.add(UnitSpec { name: name.to_owned(), tensors }));
    }
    let budget = 1 << 20;
    let device = Device::new(Host::new(HostConfig::default())?, Ledger::new(budget), Ledger::new(0));
    let stream = device.stream(StreamKind::Compute)?;
    let plan = Plan::within(&units, &cycle, budget, device.info().page_bytes)?;
    let pager = Pager::new(&stream, Arc::new(units), &cycle, &plan)?;
    for _step in 0..4 {
        for block in &cycle {
            let lease = pager.lease(*block)?;
            let first: Option<Vec<u16>> = stream.read(lease.tensor(0).rows(0, 1)?)?; // in a model: launches
            assert_eq!(first, Some(vec![0x3f3f; 512]));
        }
    }
    println!("{} bytes on the device, {} copied in 4 steps", plan.bytes(), pager.statistics().copied_bytes);
    Ok(())
}
