//! A host device and the golden autoencoder, for the tests of this crate.
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
use lighterage_vae::{Config, Decoder, Encoder, Tiling, Values};

/// A queue on a host device of its own.
pub fn queue(threads: usize) -> Queue<Host> {
    let host = Host::new(HostConfig { threads, ..HostConfig::default() }).unwrap();
    let device = Device::new(host, Ledger::new(1 << 30), Ledger::new(1 << 30));
    let stream = device.stream(StreamKind::Compute).unwrap();
    let config = PoolConfig { purpose: Purpose::Activations, reserve_bytes: 1 << 29 };
    Queue::new(Pool::new(&stream, config).unwrap())
}

/// A checkpoint of the repository, or one that a test has just written.
pub fn open(path: &Path) -> Checkpoint {
    // SAFETY: golden files are part of the repository and never written; a test's own folder is written before it is opened only.
    Checkpoint::open(path, unsafe { Unmodified::promise() }).unwrap()
}

/// How a pass is run.
#[derive(Clone, Copy, Debug)]
pub struct How {
    pub dtype: DType,
    pub threads: usize,
    pub tiling: Option<Tiling>,
}

impl How {
    pub const fn whole(dtype: DType) -> Self {
        Self { dtype, threads: 2, tiling: None }
    }
}

/// The picture of a channels-last latent, channels-last.
pub fn decode(
    config: &Config,
    weights: &Checkpoint,
    latent: &[f32],
    shape: [usize; 3],
    how: How,
) -> Vec<f32> {
    let queue = queue(how.threads);
    let mut units = Units::default();
    let decoder = Decoder::new(config.clone(), weights, how.dtype, &mut units).unwrap();
    let pager = Pager::resident(queue.stream(), Arc::new(units)).unwrap();
    let latent = upload(&queue, latent, shape, how.dtype);
    let picture = decoder.decode(&queue, &pager, latent.view(), how.tiling).unwrap();
    values(&queue, &picture)
}

/// The moments of a channels-last picture, channels-last.
pub fn encode(config: &Config, weights: &Checkpoint, picture: &[f32], shape: [usize; 3], how: How) -> Values {
    let queue = queue(how.threads);
    let mut units = Units::default();
    let encoder = Encoder::new(config.clone(), weights, how.dtype, &mut units).unwrap();
    let pager = Pager::resident(queue.stream(), Arc::new(units)).unwrap();
    let picture = upload(&queue, picture, shape, how.dtype);
    encoder.encode(&queue, &pager, picture.view(), how.tiling).unwrap().read(&queue).unwrap().unwrap()
}

pub fn upload(queue: &Queue<Host>, values: &[f32], shape: [usize; 3], dtype: DType) -> Tensor<Host> {
    let rounded = || values.iter().map(|value| bf16::from_f32(*value)).collect::<Vec<_>>();
    match dtype {
        DType::Bf16 => queue.upload(&rounded(), &shape, "test input").unwrap(),
        _ => queue.upload(values, &shape, "test input").unwrap(),
    }
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
