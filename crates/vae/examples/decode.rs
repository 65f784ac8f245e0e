//! The bundled autoencoder on `Host`: a picture to its latent and back, whole and in tiles, with times and peak memory:
//! `cargo run --release -p lighterage-vae --example decode [side in pixels]`.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use lighterage_allocator::{Config as PoolConfig, Pool};
use lighterage_checkpoint::{Checkpoint, Unmodified};
use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose, StreamKind};
use lighterage_ops::{Queue, Tensor};
use lighterage_pager::{Pager, Units};
use lighterage_shape::DType;
use lighterage_vae::{Config, Decoder, Encoder, Tiling};

/// A device, and the bundled model.
struct Bench {
    queue: Queue<Host>,
    config: Config,
    weights: Checkpoint,
}

fn main() -> Result<(), Box<dyn Error>> {
    let side = std::env::args().nth(1).map_or(Ok(256), |text| text.parse())?;
    let bench = Bench::new()?;
    let latent = bench.timed("encode", || bench.encode(side))?;
    let whole = bench.timed("decode", || bench.decode(&latent, None))?;
    let tile = Tiling::new(side / 16 * 8, bench.config.factor())?;
    let tiled = bench.timed("decode in tiles", || bench.decode(&latent, Some(tile)))?;
    compare(&whole, &tiled);
    Ok(())
}

impl Bench {
    fn new() -> Result<Self, Box<dyn Error>> {
        let device =
            Device::new(Host::new(HostConfig::default())?, Ledger::new(4 << 30), Ledger::new(1 << 28));
        let stream = device.stream(StreamKind::Compute)?;
        let pool = PoolConfig { purpose: Purpose::Activations, reserve_bytes: 4 << 30 };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo/base/vae");
        Ok(Self {
            queue: Queue::new(Pool::new(&stream, pool)?),
            config: Config::open(&folder.join("config.json"))?,
            // SAFETY: nobody writes to the bundled model while the example runs.
            weights: Checkpoint::open(&folder, unsafe { Unmodified::promise() })?,
        })
    }

    /// The mean of the latent of a soft test picture.
    fn encode(&self, side: usize) -> Result<Tensor<Host>, Box<dyn Error>> {
        let mut units = Units::default();
        let encoder = Encoder::new(self.config.clone(), &self.weights, DType::F32, &mut units)?;
        let pager = Pager::resident(self.queue.stream(), Arc::new(units))?;
        let picture = self.queue.upload(&picture(side), &[side, side, 3], "picture")?;
        let moments = encoder.encode(&self.queue, &pager, picture.view(), None)?;
        let values = moments.read(&self.queue)?.ok_or("this device has no bytes")?;
        Ok(self.queue.upload(&values.mean, &moments.shape(), "latent")?)
    }

    fn decode(&self, latent: &Tensor<Host>, tiling: Option<Tiling>) -> Result<Vec<f32>, Box<dyn Error>> {
        let mut units = Units::default();
        let decoder = Decoder::new(self.config.clone(), &self.weights, DType::F32, &mut units)?;
        let pager = Pager::resident(self.queue.stream(), Arc::new(units))?;
        let picture = decoder.decode(&self.queue, &pager, latent.view(), tiling)?;
        Ok(self.queue.read::<f32>(picture.view())?.ok_or("this device has no bytes")?)
    }

    /// Runs `work`; prints how long it took and the most that its activations held.
    #[expect(clippy::print_stdout, reason = "an example shows what it finds")]
    fn timed<T>(
        &self,
        what: &str,
        work: impl FnOnce() -> Result<T, Box<dyn Error>>,
    ) -> Result<T, Box<dyn Error>> {
        self.queue.pool().reset_peaks();
        let start = Instant::now();
        let result = work()?;
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        println!(
            "{what}: {milliseconds:.1} ms, peak {} bytes",
            self.queue.pool().statistics().allocated_peak_bytes
        );
        Ok(result)
    }
}

#[expect(clippy::cast_precision_loss, reason = "pixels of a test picture")]
fn picture(side: usize) -> Vec<f32> {
    let wave = |at: usize, phase: f32| 0.4 * (at as f32 / 20.0 + phase).sin();
    let pixel = |at: usize| [0.0, 2.0, 4.0].map(|phase| wave(at % side, phase) + wave(at / side, phase));
    (0..side * side).flat_map(pixel).collect()
}

#[expect(clippy::print_stdout, reason = "an example shows what it finds")]
fn compare(whole: &[f32], tiled: &[f32]) {
    let norm = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
    };
    let error = norm(&mut whole.iter().zip(tiled).map(|(a, b)| a - b));
    println!("tiled against whole: relative error {:.4}", error / norm(&mut whole.iter().copied()));
}
