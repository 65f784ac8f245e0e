//! Memory, streams, events, launches and the ledger, on `Cuda`, `Host` or `Sim`.
#![allow(missing_docs, reason = "skeleton")]

mod backend;
mod crew;
pub mod cuda;
mod error;
mod host;
mod kernel;
mod ledger;
mod memory;
mod sim;
mod space;
mod stream;
mod view;
mod workers;

pub use backend::{Address, Backend, ChunkId, Info, StreamKind};
pub use error::{Error, OutOfBudget, Result};
pub use host::{Host, HostConfig, HostEvent, HostStream};
pub use kernel::{Cost, Grid, Kernel};
pub use ledger::{Grant, Ledger, Purpose};
pub use memory::{Chunk, Device, Pinned, Reservation};
pub use sim::{Sim, SimConfig, SimCounters, SimEvent, SimStream};
pub use space::Usage;
pub use stream::{Event, Stream, StreamId};
pub use view::View;
pub use workers::{Isa, Workers};
