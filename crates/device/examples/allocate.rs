//! Grants, chunks, reservations and aliases, by hand: what an allocator does with a device.
//!
//! `cargo run -p lighterage-device --example allocate`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose, Result, StreamKind, View};
use lighterage_shape::{DType, Layout};

fn main() -> Result<()> {
    // A budget of 256 KiB: four of the host's pages.
    let host = Host::new(HostConfig::default())?;
    let device = Device::new(host, Ledger::new(256 << 10), Ledger::new(0));
    let page = device.info().page_bytes;
    println!("{}: pages of {page} bytes, budget {} bytes", device.info().name, device.ledger().cap_bytes());

    // Addresses cost nothing; the ledger grants physical memory.
    let range = device.reserve(1 << 40)?;
    let chunk = device.create(Purpose::Activations, page)?;
    println!("1 TiB reserved, {} bytes granted", device.ledger().granted_bytes());

    // The same page at two places.
    range.map(0, &chunk)?;
    range.map(page, &chunk)?;
    range.set_access(0, 2 * page)?;

    let stream = device.stream(StreamKind::Compute)?;
    let layout = Layout::contiguous(DType::F32, &[2, 3]);
    // SAFETY: both pages stay mapped until the end of `main`, and this stream alone uses them.
    let first = unsafe { View::new(range.address(), layout, stream.id()) };
    // SAFETY: as above.
    let alias = unsafe { View::new(range.address().offset(page), layout, stream.id()) };
    stream.upload(first, &[1_f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
    println!("second row through the alias: {:?}", stream.read::<f32>(alias.rows(1, 1)?)?);

    // Over the budget: an error with numbers, and nothing has happened.
    match device.create(Purpose::Ring, 4 * page) {
        Ok(_) => println!("the ledger did not hold"),
        Err(error) => println!("{error}"),
    }

    // Nothing is pending: `read` has waited. The chunk goes with its last owner.
    range.unmap(0, 2 * page)?;
    drop(chunk);
    println!(
        "{} bytes granted, {} at the peak",
        device.ledger().granted_bytes(),
        device.ledger().peak_bytes()
    );
    device.take_deferred()
}
