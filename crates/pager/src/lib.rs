//! Plans residency and streams weights ahead of the launch that reads them.
//!
//! A model names its weights as [`Units`]: one unit is what one launch reads, for instance a linear's weight and bias. The launches of a
//! step visit the units in an order that is the same in every step: the *cycle*. A [`Plan`] says, for a budget in bytes, which units stay on the device
//! and how long the ring is through which the others are streamed. A [`Pager`] does it: it leases the units, one after the other, again and again.
//!
//! ```text
//!  file --- as it is ------------------->  slab  [ unit 0 | unit 2 | unit 3 | ... ]            loaded once, in visiting order
//!      \                                /
//!       `- converted, in pinned memory <
//!                                       \  ring  [ 5 | 1 | 4 ][ 5 | 1 | 4 ]                    one chunk, mapped twice
//! ```
//!
//! # Why so
//!
//! * *A fixed resident set.* A cycle visits everything once before anything comes again, so whatever is kept by recency is gone when it is wanted: on
//!   a cyclic scan that does not fit, LRU hits nothing. Keeping a fixed set is optimal up to one unit (Belady 1966, on a cycle).
//! * *Spread evenly.* What is streamed is spread along the cycle, so that copies are spread under the compute. The order in which units become resident is a
//!   fixed, evenly spread one; that also makes the plan monotone: more budget never streams more.
//! * *A ring of bytes, mapped twice.* A unit that begins just before the ring's end goes on behind it at the second mapping of the first pages: it is contiguous, and no
//!   byte is lost to whole slots. A cycle is a whole number of turns, so every visit has the same address in every cycle.
//! * *Events both ways, no host wait.* The launch's stream waits for the copy of the unit; the copy stream waits for the launches on what lies where it
//!   is about to write. Copies are queued as soon as a dropped lease makes room, also across the end of the cycle into the next one. The host
//!   never waits in the steady state, and nothing is mapped, allocated or freed.
//! * *Charged before it exists.* Slab and ring are granted by the device's ledger, converted weights by the host's, exact.
//!
//! # What not
//!
//! A unit is resident as a whole or not at all. Plans do not know times yet: bytes stand for them. A pager
//! serves one stream; weights are read only.
//!
//! # Example
//!
//! See `examples/three_blocks.rs` for a model's layers in a loop. The short of it:
//!
//! ```
//! # use std::sync::Arc;
//! # use lighterage_checkpoint::{Checkpoint, NewTensor, Unmodified, write};
//! # use lighterage_device::{Device, Host, HostConfig, Ledger, StreamKind};
//! # use lighterage_shape::DType;
//! use lighterage_pager::{Pager, Plan, TensorSpec, UnitSpec, Units};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("model.safetensors");
//! # let bytes = vec![0_u8; 4 * 64 * 64];
//! # let names = ["0.weight", "1.weight", "2.weight"];
//! # write(&path, &names.map(|name| NewTensor { name, dtype: DType::F32, shape: &[64, 64], bytes: &bytes }))?;
//! # // SAFETY: nobody else knows the file.
//! # let checkpoint = Checkpoint::open(&path, unsafe { Unmodified::promise() })?;
//! # let host = Host::new(HostConfig { page_bytes: 4096, ..HostConfig::default() })?;
//! let device = Device::new(host, Ledger::new(40_000), Ledger::new(1 << 20));
//! let stream = device.stream(StreamKind::Compute)?;
//! let mut units = Units::default();
//! let mut cycle = Vec::new();
//! for layer in 0..3 {
//!     let weight = TensorSpec::whole(&checkpoint, &format!("{layer}.weight"), &[64, 64], DType::F32)?;
//!     cycle.push(units.add(UnitSpec { name: format!("layer {layer}"), tensors: vec![weight] }));
//! }
//! let plan = Plan::within(&units, &cycle, 40_000, device.info().page_bytes)?;
//! let pager = Pager::new(&stream, Arc::new(units), &cycle, &plan)?;
//! for unit in cycle.repeat(4) {
//!     let lease = pager.lease(unit)?;
//!     let weight = lease.tensor(0); // launch what reads it, on `stream`
//! #   assert_eq!(weight.shape(), &[64, 64]);
//! }
//! # Ok(())
//! # }
//! ```

mod convert;
mod error;
mod feed;
mod finite;
mod lease;
mod memory;
mod pager;
mod plan;
mod sequence;
mod state;
#[cfg(test)]
mod tests;
mod trace;
mod units;

pub use error::{Error, Result};
pub use finite::check_finite;
pub use lease::Lease;
pub use pager::{Pager, Statistics};
pub use plan::{Cycle, Goal, Limit, Link, Plan, Turn, Visit};
pub use units::{ALIGNMENT_BYTES, Piece, TensorSpec, Transform, UnitId, UnitSpec, Units};
