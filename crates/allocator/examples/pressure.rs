//! A cache fills what is left of the budget, and gives back what a request misses.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::sync::{Mutex, PoisonError};

use lighterage_allocator::{Allocator, Need, Settings, Tag};
use lighterage_device::{Device, Host, HostConfig, Ledger, StreamKind};

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::new(Host::new(HostConfig::default())?, Ledger::new(8 << 20), Ledger::new(0));
    let allocator = Allocator::new(&device, Settings::default())?;
    let compute = allocator.on(&device.stream(StreamKind::Compute)?)?;

    let mut cached = Vec::new();
    for _ in 0..6 {
        cached.push(compute.buffer::<u8>(1 << 20, allocator.tag("cached"))?);
    }
    let cache = Mutex::new(cached);
    // Dropped, the registration ends: the cache and its buffers go with it.
    let registration = allocator.on_pressure(0, move |need: Need| {
        let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
        let mut freed = 0;
        while freed < need.bytes
            && let Some(buffer) = cache.pop()
        {
            freed += buffer.len() as u64;
        }
        println!("{} bytes are missing, {freed} given back", need.bytes);
        freed
    });

    let scores = compute.buffer::<f32>(1 << 20, allocator.tag("scores"))?;
    println!("{} values at {:?}", scores.len(), scores.address());
    if let Err(refused) = compute.allocate(9 << 20, Tag::NONE) {
        println!("{refused}");
    }
    drop(registration);
    println!("{} bytes are granted at most at once", device.ledger().peak_bytes());
    Ok(())
}
