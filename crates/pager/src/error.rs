use std::path::PathBuf;

use lighterage_shape::DType;

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why weights cannot be had, with file, tensor and numbers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The budget is below what the largest unit needs.
    #[error("weights need at least {needed} bytes ({largest}), budget {budget} bytes, {} bytes missing", needed.saturating_sub(*budget))]
    Budget {
        /// The smallest budget that would do.
        needed: u64,
        /// The budget given.
        budget: u64,
        /// Name of the unit that needs it.
        largest: String,
    },
    /// Weights on their way need more page-locked host memory than its ledger has left.
    #[error("weights on their way to the device need {needed} bytes of host memory, {free} bytes left, {} bytes missing", needed.saturating_sub(*free))]
    HostBudget {
        /// Bytes of pinned memory that the plan needs.
        needed: u64,
        /// Bytes that the host ledger could still grant.
        free: u64,
    },
    /// A tensor in the file has another shape than the model needs.
    #[error("{}: tensor {tensor:?} should be {expected:?}, is {got:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape that the model needs.
        expected: Vec<usize>,
        /// The shape in the file.
        got: Vec<usize>,
    },
    /// Rows were asked for that a tensor in the file does not have.
    #[error("{}: rows {start}..{end} of tensor {tensor:?}, which has {rows} rows", path.display())]
    Rows {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// First row.
        start: usize,
        /// One past the last row.
        end: usize,
        /// Rows that the tensor has.
        rows: usize,
    },
    /// An element type that cannot be converted.
    #[error("{}: tensor {tensor:?} is {got}, which cannot become {wanted}", path.display())]
    DType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its element type.
        got: DType,
        /// The element type that the model needs.
        wanted: DType,
    },
    /// A unit was leased out of the order of the cycle.
    #[error("unit {got} leased, {expected} is next in the cycle")]
    Order {
        /// Name of the unit that is next.
        expected: String,
        /// Name of the unit that was asked for.
        got: String,
    },
    /// A streamed unit has no room in the ring as long as other leases are held.
    #[error(
        "no room for unit {unit} ({bytes} bytes) in a ring of {ring} bytes while {held} leases hold {held_bytes} bytes"
    )]
    Room {
        /// Name of the unit.
        unit: String,
        /// Its bytes.
        bytes: u64,
        /// Bytes of the ring.
        ring: u64,
        /// Leases that are held.
        held: usize,
        /// Bytes of their units, resident pages included.
        held_bytes: u64,
    },
    /// A unit was leased that is not in the plan.
    #[error("unit number {unit} is not in the plan")]
    NotPlanned {
        /// The unit's number.
        unit: u32,
    },
    /// A turn was begun, or is to be the first, of a kind that the plan has no cycle for.
    #[error("turn of kind {kind}, the plan has {cycles}, counted from 0")]
    Turn {
        /// The kind.
        kind: usize,
        /// Kinds of the plan.
        cycles: usize,
    },
    /// Plan, units, cycle and device do not belong together.
    #[error("plan does not fit: {what}, expected {expected}, got {got}")]
    Plan {
        /// What differs.
        what: &'static str,
        /// What the plan was made for.
        expected: u64,
        /// What it was given.
        got: u64,
    },
    /// The checkpoint cannot give a tensor.
    #[error(transparent)]
    Checkpoint(#[from] lighterage_checkpoint::Error),
    /// The device refused.
    #[error(transparent)]
    Device(#[from] lighterage_device::Error),
}
