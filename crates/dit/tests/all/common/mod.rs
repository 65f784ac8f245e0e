//! A host device, a model and its inputs, for the tests of this crate.
#![allow(unreachable_pub, reason = "a test is no library")]

use std::path::Path;
use std::sync::Arc;

use half::bf16;
use lighterage_allocator::{Config as PoolConfig, Pool};
use lighterage_checkpoint::{Checkpoint, NewTensor, Unmodified, write};
use lighterage_device::{
    Backend, Device, Host, HostConfig, Ledger, Purpose, Sim, SimConfig, StreamKind, View,
};
use lighterage_dit::{Config, InfuseNet, Result, Transformer, forward_infusenet, forward_transformer};
use lighterage_ops::{Queue, Tensor};
use lighterage_pager::{Pager, Units};
use lighterage_shape::DType;
use lighterage_testkit::folder;

/// A queue on a host device of its own.
pub fn queue(threads: usize) -> Queue<Host> {
    queue_on(Host::new(HostConfig { threads, ..HostConfig::default() }).unwrap())
}

/// A queue on a device that only counts.
pub fn simulated(page_bytes: u64) -> Queue<Sim> {
    queue_on(Sim::new(SimConfig { page_bytes, capacity_bytes: 1 << 40, ..SimConfig::default() }).unwrap())
}

fn queue_on<B: Backend>(backend: B) -> Queue<B> {
    let cap = backend.info().capacity_bytes;
    let device = Device::new(backend, Ledger::new(cap), Ledger::new(cap));
    let stream = device.stream(StreamKind::Compute).unwrap();
    let config = PoolConfig { purpose: Purpose::Activations, reserve_bytes: 1 << 32 };
    Queue::new(Pool::new(&stream, config).unwrap())
}

/// A checkpoint of the golden cases, or one that a test has just written.
pub fn open(path: &Path) -> Checkpoint {
    // SAFETY: golden files are part of the repository and never written; a test's own folder is written before it is opened only.
    Checkpoint::open(path, unsafe { Unmodified::promise() }).unwrap()
}

/// `model.safetensors` of a case.
pub fn weights(case: &str) -> Checkpoint {
    open(&folder(case).join("model.safetensors"))
}

/// `inputs.safetensors` of a case.
pub fn inputs(case: &str) -> Checkpoint {
    open(&folder(case).join("inputs.safetensors"))
}

pub fn config(case: &str) -> Config {
    Config::read(&folder(case).join("config.json")).unwrap()
}

/// A transformer with all its weights on the device.
pub struct Loaded {
    pub model: Transformer,
    pub queue: Queue<Host>,
    pub pager: Pager<Host>,
}

impl Loaded {
    pub fn new(config: Config, checkpoint: &Checkpoint, dtype: DType, threads: usize) -> Self {
        let queue = queue(threads);
        let mut units = Units::default();
        let model = Transformer::new(config, checkpoint, dtype, &mut units).unwrap();
        let pager = Pager::resident(queue.stream(), Arc::new(units)).unwrap();
        Self { model, queue, pager }
    }

    pub fn case(case: &str, dtype: DType, threads: usize) -> Self {
        Self::new(config(case), &weights(case), dtype, threads)
    }

    /// The velocity for the raw inputs of a case.
    pub fn sample(&self, case: &str) -> Vec<f32> {
        let sample = forward_transformer(&self.model, &self.queue, &self.pager, &inputs(case)).unwrap();
        values(&self.queue, sample.view())
    }
}

/// The scaled outputs of an InfuseNet for the raw inputs of a case, by name.
pub fn infuse(case: &str, dtype: DType, threads: usize) -> Vec<(String, Vec<f32>)> {
    let queue = queue(threads);
    let mut units = Units::default();
    let model = InfuseNet::new(config(case), &weights(case), dtype, &mut units).unwrap();
    let pager = Pager::resident(queue.stream(), Arc::new(units)).unwrap();
    let outputs = forward_infusenet(&model, &queue, &pager, &inputs(case)).unwrap();
    outputs.into_iter().map(|(name, tensor)| (name, values(&queue, tensor.view()))).collect()
}

/// The values of a tensor, bf16 or f32.
pub fn values(queue: &Queue<Host>, view: View<'_>) -> Vec<f32> {
    match view.dtype() {
        DType::Bf16 => queue.read::<bf16>(view).unwrap().unwrap().into_iter().map(bf16::to_f32).collect(),
        _ => queue.read::<f32>(view).unwrap().unwrap(),
    }
}

/// Puts values on the device, rounded to `dtype`.
pub fn upload<B: Backend>(queue: &Queue<B>, dtype: DType, values: &[f32], shape: &[usize]) -> Tensor<B> {
    match dtype {
        DType::Bf16 => {
            let rounded: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
            queue.upload(&rounded, shape, "test").unwrap()
        }
        _ => queue.upload(values, shape, "test").unwrap(),
    }
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Plain {
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// Every tensor of a checkpoint.
pub fn plain(checkpoint: &Checkpoint) -> Vec<Plain> {
    checkpoint
        .tensors()
        .map(|tensor| Plain {
            name: tensor.name().to_owned(),
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            bytes: tensor.bytes().to_vec(),
        })
        .collect()
}

/// Writes tensors as a file and opens it.
pub fn written(path: &Path, tensors: &[Plain]) -> Checkpoint {
    let tensors: Vec<NewTensor<'_>> = tensors
        .iter()
        .map(|plain| NewTensor {
            name: &plain.name,
            dtype: plain.dtype,
            shape: &plain.shape,
            bytes: &plain.bytes,
        })
        .collect();
    write(path, &tensors).unwrap();
    open(path)
}

/// The text of an error, for a result that should be one.
pub fn refusal<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("this should have been refused"),
        Err(error) => error.to_string(),
    }
}
