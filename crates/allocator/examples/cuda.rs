//! The same allocator on a GPU: the device is made otherwise, nothing else. Without an NVIDIA driver it says so in one line and ends with 1.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]

use std::error::Error;
use std::process::ExitCode;

use lighterage_allocator::{Allocator, Settings};
use lighterage_device::{Cuda, CudaConfig, Device, Ledger, StreamKind};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let device = Device::new(Cuda::new(CudaConfig::default())?, Ledger::new(64 << 20), Ledger::new(0));
    let allocator = Allocator::new(&device, Settings::default())?;
    let compute = allocator.on(&device.stream(StreamKind::Compute)?)?;

    let hidden = compute.buffer::<f32>(4 << 20, allocator.tag("hidden"))?;
    let first = hidden.address();
    drop(hidden);
    let again = compute.buffer::<f32>(4 << 20, allocator.tag("hidden"))?;
    println!("the same memory for later work of the stream: {}", again.address() == first);
    if let Err(refused) = compute.buffer::<u8>(64 << 20, allocator.tag("scores")) {
        println!("{refused}");
    }
    drop(again);
    println!("{} bytes given back to the device", allocator.trim()?);
    Ok(())
}
