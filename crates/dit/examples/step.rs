//! One step of the bundled transformer on `Host`, with its times: `cargo run -p lighterage-dit --example step [f32|bf16]`.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use half::bf16;
use lighterage_allocator::{Config as PoolConfig, Pool};
use lighterage_checkpoint::{Checkpoint, Unmodified};
use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose, StreamKind};
use lighterage_dit::{Conditioning, Config, Rope, StepInputs, Timesteps, Transformer};
use lighterage_ops::{Queue, Tensor};
use lighterage_pager::{Pager, Units};
use lighterage_shape::DType;

/// Text tokens, and tokens of the image's height and width (256 x 256 pixels).
const TEXT: usize = 32;
const HEIGHT: usize = 16;
const WIDTH: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let dtype = match std::env::args().nth(1).as_deref() {
        None | Some("bf16") => DType::Bf16,
        Some("f32") => DType::F32,
        Some(other) => return Err(format!("{other:?} is neither f32 nor bf16").into()),
    };
    let device = Device::new(Host::new(HostConfig::default())?, Ledger::new(1 << 30), Ledger::new(1 << 30));
    let stream = device.stream(StreamKind::Compute)?;
    let queue =
        Queue::new(Pool::new(&stream, PoolConfig { purpose: Purpose::Activations, reserve_bytes: 1 << 28 })?);

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo/base/transformer");
    // SAFETY: nobody writes to the bundled model while the example runs.
    let checkpoint = Checkpoint::open(&folder, unsafe { Unmodified::promise() })?;
    let mut units = Units::default();
    let model = Transformer::new(Config::of(&checkpoint)?, &checkpoint, dtype, &mut units)?;
    let pager = Pager::resident(&stream, Arc::new(units))?;
    run(&model, &queue, &pager)
}

#[expect(clippy::print_stdout, reason = "an example shows what it finds")]
fn run(model: &Transformer, queue: &Queue<Host>, pager: &Pager<Host>) -> Result<(), Box<dyn Error>> {
    let config = model.config();
    let pooled = wave(queue, model.dtype(), 1, config.pooled_projection_dim)?;
    let states = wave(queue, model.dtype(), TEXT, config.joint_attention_dim)?;
    let latents = wave(queue, model.dtype(), HEIGHT * WIDTH, config.in_channels)?;
    let rope = Rope::grid(queue, config, TEXT, HEIGHT, WIDTH)?;

    let conditioning = Conditioning {
        timesteps: Timesteps::Rounded(&[1.0, 0.75, 0.5, 0.25]),
        guidance: Some(3.5),
        pooled: pooled.view(),
    };
    let modulations =
        timed(queue, "hoisted modulation, 4 steps", || model.condition(queue, pager, &conditioning))?;
    let text = timed(queue, "text embedding", || model.embed_text(queue, pager, states.view()))?;
    queue.pool().reset_peaks();
    for step in 0..modulations.steps() {
        let (latents, text, modulations, rope) = (latents.view(), text.view(), &modulations, &rope);
        let inputs = StepInputs { latents, text, modulations, rope, residuals: None };
        timed(queue, "step", || {
            modulations.select(queue, step)?;
            model.step(queue, pager, &inputs)
        })?;
    }
    println!("{} bytes of activations at most", queue.pool().statistics().allocated_peak_bytes);
    Ok(())
}

/// Runs, waits for the device, and prints the time of both.
#[expect(clippy::print_stdout, reason = "an example shows what it finds")]
fn timed<T>(
    queue: &Queue<Host>,
    what: &str,
    run: impl FnOnce() -> lighterage_dit::Result<T>,
) -> Result<T, Box<dyn Error>> {
    let start = Instant::now();
    let result = run()?;
    queue.stream().synchronize()?;
    println!("{what}: {:.3} ms", start.elapsed().as_secs_f64() * 1e3);
    Ok(result)
}

/// `[rows, columns]` of some smooth values.
#[expect(clippy::cast_precision_loss, reason = "any values will do")]
fn wave(
    queue: &Queue<Host>,
    dtype: DType,
    rows: usize,
    columns: usize,
) -> lighterage_dit::Result<Tensor<Host>> {
    let values: Vec<f32> = (0..rows * columns).map(|index| (index as f32 * 0.37).sin()).collect();
    let rounded: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
    Ok(match dtype {
        DType::Bf16 => queue.upload(&rounded, &[rows, columns], "example")?,
        _ => queue.upload(&values, &[rows, columns], "example")?,
    })
}
