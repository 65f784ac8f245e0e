//! A host device, the golden cases and the encoders' outputs, for the tests of this crate.
#![allow(unreachable_pub, reason = "a test is no library")]

use std::path::Path;
use std::sync::Arc;

use half::bf16;
use lighterage_allocator::{Config as PoolConfig, Pool};
use lighterage_checkpoint::{Checkpoint, NewTensor, Unmodified, write};
use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose, StreamKind};
use lighterage_ops::{Queue, Tensor};
use lighterage_pager::{Pager, Units};
use lighterage_shape::DType;
use lighterage_testkit::{Golden, folder};
use lighterage_text::{clip, t5};

/// A queue on a host device of its own.
pub fn queue(threads: usize) -> Queue<Host> {
    let host = Host::new(HostConfig { threads, ..HostConfig::default() }).unwrap();
    let device = Device::new(host, Ledger::new(1 << 30), Ledger::new(1 << 30));
    let stream = device.stream(StreamKind::Compute).unwrap();
    let config = PoolConfig { purpose: Purpose::Activations, reserve_bytes: 1 << 28 };
    Queue::new(Pool::new(&stream, config).unwrap())
}

/// A checkpoint of the repository, or one that a test has just written.
pub fn open(path: &Path) -> Checkpoint {
    // SAFETY: golden files are part of the repository and never written; a test's own folder is written before it is opened only.
    Checkpoint::open(path, unsafe { Unmodified::promise() }).unwrap()
}

/// The ids of a case.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ids of a golden case")]
pub fn ids(case: &str) -> Vec<u32> {
    let inputs = Golden::open(&folder(case).join("inputs.safetensors"));
    inputs.values("input_ids").iter().map(|id| *id as u32).collect()
}

pub fn clip_config(case: &str) -> clip::Config {
    clip::Config::open(&folder(case).join("config.json")).unwrap()
}

pub fn t5_config(case: &str) -> t5::Config {
    t5::Config::open(&folder(case).join("config.json")).unwrap()
}

/// Last hidden state and pooled vector.
pub fn run_clip(
    config: clip::Config,
    checkpoint: &Checkpoint,
    ids: &[u32],
    dtype: DType,
    threads: usize,
) -> (Vec<f32>, Vec<f32>) {
    let queue = queue(threads);
    let mut units = Units::default();
    let model = clip::Clip::new(config, checkpoint, dtype, ids, &mut units).unwrap();
    let pager = Pager::resident(queue.stream(), Arc::new(units)).unwrap();
    let output = model.forward(&queue, &pager).unwrap();
    (values(&queue, &output.last_hidden_state), values(&queue, &output.pooled))
}

/// Last hidden state.
pub fn run_t5(
    config: t5::Config,
    checkpoint: &Checkpoint,
    ids: &[u32],
    dtype: DType,
    threads: usize,
) -> Vec<f32> {
    let queue = queue(threads);
    let mut units = Units::default();
    let model = t5::T5::new(config, checkpoint, dtype, ids, &mut units).unwrap();
    let pager = Pager::resident(queue.stream(), Arc::new(units)).unwrap();
    let hidden = model.forward(&queue, &pager).unwrap();
    values(&queue, &hidden)
}

/// The values of a tensor, bf16 or f32.
pub fn values(queue: &Queue<Host>, tensor: &Tensor<Host>) -> Vec<f32> {
    match tensor.dtype() {
        DType::Bf16 => {
            queue.read::<bf16>(tensor.view()).unwrap().unwrap().into_iter().map(bf16::to_f32).collect()
        }
        _ => queue.read::<f32>(tensor.view()).unwrap().unwrap(),
    }
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The bytes of a tensor to write.
#[derive(Clone)]
pub struct Plain {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// Every tensor of a checkpoint.
pub fn plain(source: &Checkpoint) -> Vec<Plain> {
    let one = |tensor: &lighterage_checkpoint::Tensor| Plain {
        name: tensor.name().to_owned(),
        dtype: tensor.dtype(),
        shape: tensor.shape().to_vec(),
        bytes: tensor.bytes().to_vec(),
    };
    source.tensors().map(one).collect()
}

/// A checkpoint of these tensors; the folder must outlive its use.
pub fn written(tensors: &[Plain]) -> (tempfile::TempDir, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let new = |plain| {
        let Plain { name, dtype, shape, bytes }: &Plain = plain;
        NewTensor { name, dtype: *dtype, shape, bytes }
    };
    write(&path, &tensors.iter().map(new).collect::<Vec<_>>()).unwrap();
    let checkpoint = open(&path);
    (folder, checkpoint)
}
