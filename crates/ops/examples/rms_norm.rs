//! Allocates two tensors on the host device, launches ops on them and reads the result back.
//!
//! `cargo run -p lighterage-ops --example rms_norm`

use std::error::Error;

use lighterage_allocator::{Config, Pool};
use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose, StreamKind};
use lighterage_ops::{Activation, ActivationKind, Add, Queue, activation, add};
use lighterage_shape::DType;

#[expect(clippy::print_stdout, reason = "an example shows what it did")]
fn main() -> Result<(), Box<dyn Error>> {
    // Every device byte is granted by this ledger: a mebibyte, and not one more.
    let device = Device::new(Host::new(HostConfig::default())?, Ledger::new(1 << 20), Ledger::new(0));
    let stream = device.stream(StreamKind::Compute)?;
    let pool = Pool::new(&stream, Config { purpose: Purpose::Activations, reserve_bytes: 1 << 30 })?;
    let queue = Queue::new(pool);

    // bf16 in memory, f32 inside of the kernels.
    let ramp: Vec<f32> = (-4_i16..4).map(f32::from).collect();
    let x = queue.upload_as(DType::Bf16, &ramp, &[2, 4], "x")?;
    let bias = queue.upload_as(DType::Bf16, &[0.5; 4], &[1, 4], "bias")?;

    // Launches return at once; the stream keeps their order. The one row of b is added to both rows of x, in place.
    add(&queue, &Add { a: x.view(), b: bias.view(), scale: 1.0, out: x.view() })?;
    activation(&queue, &Activation { x: x.view(), kind: ActivationKind::Silu, out: x.view() })?;

    // Reading waits for what was launched before.
    let values = queue.read_f32(x.view())?.ok_or("this device has no bytes to read")?;
    for row in values.chunks(4) {
        println!("{row:?}");
    }

    // What does not suit is refused before anything runs.
    let refused = add(&queue, &Add { a: x.view(), b: x.view().narrow(1, 0, 3)?, scale: 1.0, out: x.view() });
    println!("refused: {}", refused.err().ok_or("a matrix of three columns was added to one of four")?);
    println!("{} of {} bytes granted", device.ledger().granted_bytes(), device.ledger().cap_bytes());
    Ok(())
}
