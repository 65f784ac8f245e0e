//! Plans residency and streams weights ahead of the launch that reads them (skeleton).

mod convert;
mod error;
mod finite;
mod loader;
mod memory;
mod pager;
mod plan;
mod ring;
mod units;

pub use error::{Error, Result};
pub use finite::check_finite;
pub use pager::{Lease, Pager, Statistics};
pub use plan::Plan;
pub use units::{ALIGNMENT_BYTES, Piece, TensorSpec, Transform, UnitId, UnitSpec, Units};
