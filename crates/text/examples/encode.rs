//! A prompt's ids, hidden states and pooled vector by the bundled encoders on `Host`, with times and memory:
//! `cargo run --release -p lighterage-text --example encode ["a prompt"]`.

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
use lighterage_text::{ClipTokenizer, T5Tokenizer, clip, t5};

fn main() -> Result<(), Box<dyn Error>> {
    let prompt = std::env::args().nth(1).unwrap_or_else(|| "a man with red hair, smiling".to_owned());
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo/base");

    let clip_ids = timed("clip ids", || ClipTokenizer::open(&base.join("tokenizer"))?.encode(&prompt, 77))?;
    let t5_ids = timed("t5 ids", || T5Tokenizer::open(&base.join("tokenizer_2"))?.encode(&prompt, 32))?;

    let device = Device::new(Host::new(HostConfig::default())?, Ledger::new(1 << 28), Ledger::new(1 << 28));
    let stream = device.stream(StreamKind::Compute)?;
    let config = PoolConfig { purpose: Purpose::Activations, reserve_bytes: 1 << 26 };
    let queue = Queue::new(Pool::new(&stream, config)?);
    timed("clip", || run_clip(&queue, &base.join("text_encoder"), &clip_ids))?;
    timed("t5", || run_t5(&queue, &base.join("text_encoder_2"), &t5_ids))?;
    Ok(())
}

fn run_clip(queue: &Queue<Host>, folder: &Path, ids: &[u32]) -> Result<(), Box<dyn Error>> {
    let config = clip::Config::open(&folder.join("config.json"))?;
    let mut units = Units::default();
    let model = clip::Clip::new(config, &open(folder)?, DType::F32, ids, &mut units)?;
    let pager = Pager::resident(queue.stream(), Arc::new(units))?;
    show("pooled", queue, &model.forward(queue, &pager)?.pooled)
}

fn run_t5(queue: &Queue<Host>, folder: &Path, ids: &[u32]) -> Result<(), Box<dyn Error>> {
    let config = t5::Config::open(&folder.join("config.json"))?;
    let mut units = Units::default();
    let model = t5::T5::new(config, &open(folder)?, DType::F32, ids, &mut units)?;
    let pager = Pager::resident(queue.stream(), Arc::new(units))?;
    show("last hidden state", queue, &model.forward(queue, &pager)?)
}

fn open(folder: &Path) -> Result<Checkpoint, Box<dyn Error>> {
    // SAFETY: nobody writes to the bundled model while the example runs.
    Ok(Checkpoint::open(folder, unsafe { Unmodified::promise() })?)
}

#[expect(clippy::print_stdout, reason = "an example shows what it finds")]
fn show(what: &str, queue: &Queue<Host>, tensor: &Tensor<Host>) -> Result<(), Box<dyn Error>> {
    let values = queue.read::<f32>(tensor.view())?.unwrap_or_default();
    println!("{what}: {:?}, begins {:?}", tensor.shape(), &values[..4.min(values.len())]);
    Ok(())
}

/// Runs `work`; prints how long it took and what anonymous memory the process holds then, and held at most.
#[expect(clippy::print_stdout, reason = "an example shows what it finds")]
fn timed<T, E>(what: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let start = Instant::now();
    let result = work()?;
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = |key| status.lines().find_map(|line: &str| line.strip_prefix(key)).unwrap_or("?").trim();
    println!("{what}: {milliseconds:.1} ms; RssAnon {}, VmHWM {}", memory("RssAnon:"), memory("VmHWM:"));
    Ok(result)
}
