//! Plans residency and streams weights ahead of the launch that reads them (skeleton).
#![allow(missing_docs, clippy::todo, clippy::missing_errors_doc, clippy::missing_panics_doc, reason = "skeleton")]

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use lighterage_checkpoint::{Checkpoint, Tensor};
use lighterage_device::{Backend, Stream, View};
use lighterage_shape::DType;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The weights budget is below what the largest unit needs.
    #[error("weights need at least {needed} bytes ({largest}), budget {budget} bytes, {} bytes missing", needed - budget)]
    Budget { needed: u64, budget: u64, largest: String },
    /// A tensor in the file has another shape than the model needs.
    #[error("{}: tensor {tensor:?} should be {expected:?}, is {got:?}", path.display())]
    Shape { path: std::path::PathBuf, tensor: String, expected: Vec<usize>, got: Vec<usize> },
    /// An element type that cannot be converted.
    #[error("{}: tensor {tensor:?} is {got}, which cannot become {wanted}", path.display())]
    DType { path: std::path::PathBuf, tensor: String, got: DType, wanted: DType },
    /// A unit was leased out of the order of the cycle.
    #[error("unit {got} leased, {expected} is next in the cycle")]
    Order { expected: String, got: String },
    #[error(transparent)]
    Checkpoint(#[from] lighterage_checkpoint::Error),
    #[error(transparent)]
    Device(#[from] lighterage_device::Error),
}

/// Names a unit within its [`Units`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId(pub u32);

/// How a piece is rearranged on its way to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    /// As it is.
    None,
    /// `[out, in, kernel, kernel]` in the file becomes `[out, kernel, kernel, in]`.
    ChannelsLast,
}

/// A run of rows (of the first dimension) of a tensor in a file.
#[derive(Clone, Debug)]
pub struct Piece {
    pub tensor: Tensor,
    pub rows: Range<usize>,
    pub transform: Transform,
}

/// One tensor of a unit: its pieces, one after the other along the first dimension, converted to `dtype`.
#[derive(Clone, Debug)]
pub struct TensorSpec {
    /// Element type on the device: bf16 or f32.
    pub dtype: DType,
    /// Shape on the device.
    pub shape: Vec<usize>,
    pub pieces: Vec<Piece>,
}

impl TensorSpec {
    /// One whole tensor of the checkpoint; it must have `shape` (a shape with the same elements and rank 4 against 2 is accepted only
    /// for 1x1 convolutions, `[n, k, 1, 1]` for `[n, k]`).
    pub fn whole(_checkpoint: &Checkpoint, _name: &str, _shape: &[usize], _dtype: DType) -> Result<Self> {
        todo!()
    }

    /// Several tensors, stacked along the first dimension: `(name, rows of it)`; each must have `rows.len()` rows or more and agree in the other
    /// dimensions with `shape`.
    pub fn stacked(_checkpoint: &Checkpoint, _pieces: &[(&str, Range<usize>)], _shape: &[usize], _dtype: DType) -> Result<Self> {
        todo!()
    }

    /// Chosen rows of a table, one for each id (an embedding gathered on the way to the device).
    pub fn gathered(_checkpoint: &Checkpoint, _name: &str, _ids: &[u32], _columns: usize, _dtype: DType) -> Result<Self> {
        todo!()
    }

    /// A convolution's weight, `[out, in, k, k]` in the file, `[out, k, k, in]` on the device; `shape` is that of the device.
    pub fn convolution(_checkpoint: &Checkpoint, _name: &str, _shape: &[usize], _dtype: DType) -> Result<Self> {
        todo!()
    }
}

/// What one launch reads: for a linear, weight and bias.
#[derive(Clone, Debug)]
pub struct UnitSpec {
    /// For messages and traces, for instance `transformer_blocks.3.attn.to_out`.
    pub name: String,
    pub tensors: Vec<TensorSpec>,
}

/// All units of a model or of several.
#[derive(Clone, Debug, Default)]
pub struct Units {
    list: Vec<UnitSpec>,
}

impl Units {
    pub fn add(&mut self, unit: UnitSpec) -> UnitId {
        self.list.push(unit);
        UnitId(u32::try_from(self.list.len() - 1).expect("fewer than 2^32 units"))
    }

    pub fn get(&self, unit: UnitId) -> &UnitSpec {
        &self.list[unit.0 as usize]
    }

    /// Bytes on the device, alignment included.
    pub fn bytes(&self, _unit: UnitId) -> u64 {
        todo!()
    }
}

/// What is resident and what is streamed through a ring of which size: a pure function of units, cycle and budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    _todo: (),
}

impl Plan {
    /// Every unit of the cycle resident.
    pub fn resident(_units: &Units, _cycle: &[UnitId], _page_bytes: u64) -> Self {
        todo!()
    }

    /// The best plan within `budget_bytes` for weights.
    pub fn within(_units: &Units, _cycle: &[UnitId], _budget_bytes: u64, _page_bytes: u64) -> Result<Self> {
        todo!()
    }

    /// Device bytes that the plan takes: resident slab and ring, in whole pages.
    pub fn bytes(&self) -> u64 {
        todo!()
    }
    pub fn resident_bytes(&self) -> u64 {
        todo!()
    }
    pub fn ring_bytes(&self) -> u64 {
        todo!()
    }
    /// Bytes that cross the link once a cycle in the steady state.
    pub fn streamed_bytes(&self) -> u64 {
        todo!()
    }
}

/// Keeps a phase's weights: leases units in the order of the cycle, again and again, and streams ahead.
#[derive(Debug)]
pub struct Pager<B: Backend> {
    _todo: PhantomData<B>,
}

impl<B: Backend> Pager<B> {
    /// Takes the plan's bytes from the ledger and starts to read ahead; `stream` is where the leased weights are used.
    pub fn new(_stream: &Stream<B>, _units: Arc<Units>, _cycle: Vec<UnitId>, _plan: &Plan) -> Result<Self> {
        todo!()
    }

    /// A pager that holds every unit and takes leases in any order: for a dry pass, which finds the cycle out, and for modules run alone.
    pub fn resident(_stream: &Stream<B>, _units: Arc<Units>) -> Result<Self> {
        todo!()
    }

    /// The unit's weights, for launches on the pager's stream while the lease lives. Streamed units come in the order of the cycle.
    pub fn lease(&self, _unit: UnitId) -> Result<Lease<'_, B>> {
        todo!()
    }

    /// The units leased so far, in order.
    pub fn trace(&self) -> Vec<UnitId> {
        todo!()
    }

    pub fn statistics(&self) -> Statistics {
        todo!()
    }
}

/// What a pager has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    pub leases: u64,
    /// Bytes copied to the device.
    pub copied_bytes: u64,
}

/// Weights of one unit, on the device. Dropping it lets the ring reuse the space once the work launched so far is done.
#[derive(Debug)]
pub struct Lease<'p, B: Backend> {
    _pager: &'p Pager<B>,
}

impl<B: Backend> Lease<'_, B> {
    /// The unit's `index`-th tensor.
    pub fn tensor(&self, _index: usize) -> View<'_> {
        todo!()
    }
}
