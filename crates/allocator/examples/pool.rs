//! Allocates device memory in stream order, shows who holds what when it is refused, and gives it back.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use lighterage_allocator::{Config, Pool};
use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose, StreamKind};

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::new(Host::new(HostConfig::default())?, Ledger::new(8 << 20), Ledger::new(0));
    let stream = device.stream(StreamKind::Compute)?;
    let pool = Pool::new(&stream, Config { purpose: Purpose::Activations, reserve_bytes: 1 << 30 })?;

    let hidden = pool.allocate(3 << 20, "hidden")?;
    let query = pool.allocate(2 << 20, "query")?;
    println!("hidden at {}, query at {}", hidden.offset(), query.offset());
    drop(hidden);
    // Launches on `hidden` may still run: later work of the same stream comes after them, so its memory is free at once.
    let key = pool.allocate(1 << 20, "key")?;
    println!("key at {}: {:?}", key.offset(), pool.statistics());
    if let Err(refused) = pool.allocate(9 << 20, "scores") {
        println!("{refused}");
    }
    drop((query, key));
    println!(
        "{} bytes given back to the ledger, which has granted {}",
        pool.trim()?,
        device.ledger().granted_bytes()
    );
    Ok(())
}
