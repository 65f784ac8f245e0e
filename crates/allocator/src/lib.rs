//! The caching device allocator: a [`Pool`] hands out [`Buffer`]s of device memory on one stream.
//!
//! # What
//!
//! A pool reserves one long range of addresses and maps physical pages into it on demand, each charged to the device's ledger
//! before it exists. Requests are placed in that range by best fit, the lowest address among equals, at multiples of
//! [`ALIGNMENT_BYTES`]; free neighbours are joined. Since addresses are contiguous however the pages came, there are no segments
//! and so no fragmentation between them.
//!
//! # Why so
//!
//! * *Stream order makes reuse free.* Work on a stream runs in the order of its launches. A buffer that is dropped may
//!   therefore be handed out again at once: whatever is launched on it next comes after all that used it before. Nothing waits, and no event
//!   is recorded.
//! * *Placement depends on the sequence of requests alone*: not on time, on the budget, on what is mapped, or on the backend. So a dry
//!   pass on `Sim` finds the very offsets and, for the same page size, the very [`Statistics::reserved_peak_bytes`] that a run
//!   on another device will have, and a plan can be made from it.
//! * *One chunk a page.* A chunk cannot be split, so this is what lets [`Pool::trim`] give back every page that holds nothing.
//!   Access is granted once for each run of pages.
//! * *A failure changes nothing.* The ledger, the device or the driver may refuse in the middle of a request; what the request had mapped
//!   is unmapped again, and the error says who holds how much.
//!
//! # What not
//!
//! There is no free list by size class, no splitting threshold and no rounding to powers of two: the driver is never asked for
//! a block of one size, so there is nothing to hoard. Memory is not shared between streams; a pool belongs to one.
//!
//! ```
//! use lighterage_allocator::{Config, Pool};
//! use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose, StreamKind};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let host = Host::new(HostConfig::default())?;
//! let device = Device::new(host, Ledger::new(1 << 20), Ledger::new(0));
//! let stream = device.stream(StreamKind::Compute)?;
//! let pool = Pool::new(&stream, Config { purpose: Purpose::Activations, reserve_bytes: 1 << 30 })?;
//! let first = pool.allocate(1000, "hidden")?;
//! let place = first.offset();
//! drop(first);
//! assert_eq!(pool.allocate(900, "scores")?.offset(), place, "later work of the stream uses the same memory");
//! assert!(pool.allocate(2 << 20, "too much").unwrap_err().to_string().contains("cap 1048576"));
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]

mod arena;
mod caching;
mod error;
mod sync;
#[cfg(test)]
mod tests;
mod trace;

pub use arena::{ALIGNMENT_BYTES, Buffer, Config, Pool, Statistics};
pub use caching::{
    Action, Allocator, AllocatorStatistics, DeviceBuffer, Event, Events, Gauge, Handle, Need, OnStream,
    PoolCounts, PressureHandler, Registration, Scope, Settings, Step, StepHandle, Steps, Tag, Urgency,
};
pub use error::{Error, OutOfBudget, OutOfMemory, Result};
pub use trace::{Op, Plan, Slot, Trace};
