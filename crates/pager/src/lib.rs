//! Plans residency and streams weights ahead of the launch that reads them.
//!
//! A model names its weights as [`Units`]: one unit is what one launch reads, for instance a linear's weight and bias. The launches of a
//! step visit the units in an order that is the same in every step: the *cycle*. A [`Plan`] says, for a budget in bytes, which pages of which unit stay on the device,
//! how long the ring is through which the others are streamed, and how long a step takes. A [`Pager`] does it: it leases the units, one after the other, again and again.
//!
//! ```text
//!  addresses   | unit 0              | unit 1        | unit 2                |      one range, fixed for the run
//!  pages       | R R R R R R . . . . | R R R R R . . | R R R R R R R . . . . |      R: memory of its own, . an alias of a page of the ring
//!  ring                    0 1 2 3              4 5               0 1 2 3           written by the copy stream, again and again
//! ```
//!
//! # Why so
//!
//! * *A share of every unit.* What is not resident crosses the link in every turn. If each unit streams as much as the link carries while it computes, neither waits:
//!   so streamed pages are dealt out in proportion to time, and a ring of about two units is enough. Whole units resident and others not would make copies
//!   come in heaps.
//! * *A fixed resident set.* A cycle visits everything once before anything comes again, so whatever is kept by recency is gone when it is wanted: on
//!   a cyclic scan that does not fit, LRU hits nothing. Keeping a fixed set is optimal up to one unit (Belady 1966, on a cycle).
//! * *Aliases.* A unit is one contiguous range of addresses whatever part of it is resident, since its streamed pages are mapped to pages of the ring, and those to
//!   many units. A cycle is a whole number of turns of the ring, so every page has the same place in every cycle: nothing is mapped after the start.
//! * *Small units share pages.* All units lie one behind the other, as on a tape, so norms and biases cost no page of their own.
//! * *Events both ways, no host wait.* The launch's stream waits for the copies of the unit; the copy stream waits for the launches on what lies where it
//!   is about to write. Copies are queued as soon as a dropped lease makes room, also across the end of the cycle into the next one. The host
//!   never waits in the steady state, and nothing is mapped or allocated on the device: turn after turn the calls are the same.
//! * *One script.* The plan's prediction and the pager's copies come from the same code, which keeps the books of what each page of the ring holds. Tests run
//!   plans on `Sim`, whose clock knows of neither, and hold the two to each other.
//! * *Charged before it exists.* Resident pages and ring are granted by the device's ledger, what is page-locked by the host's, exact.
//!
//! # How good a plan is
//!
//! [`Plan::turns`] has the time of a turn beside a lower bound that holds for every policy: for each window of neighbouring visits, what does not fit the memory has to
//! cross the link between its first and its last visit, while the rest of the turn waits. The ring's length is searched, with the very recurrence that predicts the time; small
//! plans are polished page by page. Tests hold FLUX.1-dev, with InfuseNet or without, to within 2 % of the bound on every built-in card at budgets for weights from 1 to 24 GB,
//! and plans of up to five units to within 2 % of the best choice of shares and ring. Without times, bytes stand for them. What comes before the steady state is in
//! [`Plan::first_turn_seconds`] and [`Plan::seconds`]: calls that map all pages, page-locking, filling, loading, and in the end calls that give the pages back.
//!
//! # Several kinds of turns
//!
//! A step without the control network visits fewer units. Each kind is a [`Cycle`] of the plan, with the number of its turns, over the same addresses; [`Pager::turn`]
//! says which one begins. A step that is skipped leases nothing and needs no word: what was read ahead stays. The first turn of another kind reads the ring anew, and finds all else.
//!
//! # Under pressure
//!
//! When somebody else on the same ledger finds no room ([`Pager::shrink`]), or the ledger's cap is lowered in a run (seen at [`Pager::turn`]), resident pages become streamed
//! ones: a plan for less memory, at the same addresses. What a held lease lies in is not touched, so it may happen at any moment. When the pressure is over for a turn the
//! pages are taken back ([`Pager::regrow`]). This is the one time when a pager waits for the device and maps pages in the middle of a run.
//!
//! # Graphs
//!
//! In the steady state each turn queues the same work, so it can be recorded once and replayed by two calls: [`Pager::replayable`], [`Pager::capture`], [`Pager::replay`].
//!
//! # Where copies come from
//!
//! On a card: from page-locked memory that holds exactly the bytes that are streamed more than once, filled (and converted) when they are first copied; residents, and
//! all of a run of one turn, go through two stages. It is
//! charged when the pager is made and page-locked block by block, at most 256 MiB at a time, when the first of a block's bytes are copied: the first launch waits for
//! one block. With [`Source::Registered`] it is the mapped files that are page-locked, where they need no conversion, window by window; a window that is refused is copied
//! instead. What the host's budget does not hold, or the driver refuses to page-lock, goes through the stages in every turn, read past the map so that the
//! page cache need not keep it. Where page-locking gains nothing (`Host`): from the mapped file, but
//! for what is converted. The first unit is used while the others are still being read.
//!
//! # What not
//!
//! A pager serves one stream; weights are read only. A run of one turn reads nothing ahead of its end; one of several does. Weights of the next phase are not read during the last turn of this one.
//!
//! # Example
//!
//! See `examples/three_blocks.rs` for a model's layers in a loop, `any_file.rs` for those of any file, `two_models.rs` for two models in one cycle. The short of it:
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

mod arena;
mod convert;
mod error;
mod feed;
mod finite;
mod graphs;
mod in_place;
mod lease;
mod memory;
mod pager;
mod plan;
mod resize;
mod sequence;
mod state;
#[cfg(test)]
mod tests;
mod trace;
mod units;

pub use error::{Error, Result};
pub use finite::check_finite;
pub use graphs::Recorded;
pub use lease::Lease;
pub use pager::{Pager, Statistics};
pub use plan::{Cycle, Goal, HostBytes, HostRates, Limit, Link, Plan, Planner, Source, Turn, Visit};
pub use units::{ALIGNMENT_BYTES, Piece, TensorSpec, Transform, UnitId, UnitSpec, Units};
