//! Writes what an allocator holds and what happened last to a file for PyTorch's viewer (<https://pytorch.org/memory_viz>), to one of JSON, and to a log for RMM.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::PathBuf;

use lighterage_allocator::{Allocator, Settings, Trace};
use lighterage_device::{Device, Ledger, Sim, SimConfig, StreamKind};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let device = Device::new(Sim::new(SimConfig::default())?, Ledger::new(256 << 20), Ledger::new(0));
    let allocator = Allocator::new(&device, Settings::parse("trace_events:65536,large_segment_size_mb:16")?)?;
    let compute = allocator.on(&device.stream(StreamKind::Compute)?)?;
    let copy = allocator.on(&device.stream(StreamKind::Copy)?)?;
    let (weights, hidden, scores) =
        (allocator.tag("weights"), allocator.tag("hidden"), allocator.tag("scores"));

    let mut kept = Vec::new();
    for layer in 0..16_usize {
        allocator.mark(layer as u64);
        let weight = copy.buffer::<u8>(24 << 20, weights)?;
        weight.used_on(compute.stream())?;
        let input = compute.buffer::<f32>(1 << 20, hidden)?;
        drop(compute.buffer::<f32>((layer + 1) << 18, scores)?);
        kept.push(compute.buffer::<f32>(4096, hidden)?);
        drop((weight, input));
    }
    if let Err(refused) = compute.allocate(300 << 20, scores) {
        println!("{refused}");
    }

    let snapshot = allocator.snapshot();
    std::fs::write(folder.join("snapshot.pickle"), snapshot.to_pickle())?;
    std::fs::write(folder.join("snapshot.json"), snapshot.to_json())?;
    std::fs::write(folder.join("snapshot.csv"), snapshot.to_rmm_csv())?;
    let trace = Trace::from_snapshot(&std::fs::read(folder.join("snapshot.pickle"))?)?;
    println!(
        "{} segments and {} events in {}; {} requests, at most {} bytes at once",
        snapshot.segments.len(),
        snapshot.events.len(),
        folder.join("snapshot.pickle").display(),
        trace.ops().len(),
        trace.peak_bytes(),
    );
    drop(kept);
    Ok(())
}
