//! The caching device allocator: one heap for all streams, pages that move, a hard budget; and a pool whose placement is known beforehand.
//!
//! # What
//!
//! * [`Allocator`] hands out memory for any number of streams ([`Allocator::on`], [`OnStream::allocate`], [`OnStream::buffer`]). This is what to use
//!   where requests are not known beforehand.
//! * [`Steps`] records the requests of a step that repeats, finds an offset for each ([`Plan`]), and serves the step from one block from then on.
//! * [`Pool`] is one stream's range of addresses, where a request's place depends on the sequence of requests alone. The activations of a
//!   pipeline live there: a dry pass on `Sim` is recorded ([`Recording`]), every request gets its place ([`Placement`]), and the run follows it
//!   ([`Pool::follow`]), so that offsets and peak are known to the byte, and the peak is close to what lives at once.
//! * [`Trace`] is a sequence of requests, to be replayed or planned: read from a log of RMM, from a memory snapshot of PyTorch, or from our own.
//!   [`Replay`] does it on an allocator.
//! * [`Snapshot`] is what an allocator holds at one instant and what happened last.
//!
//! # How the allocator works
//!
//! Two heaps of addresses, for requests up to 1 MiB and above, are reserved once and shared by all streams. A *block* is a range of them: handed out, free with memory,
//! or bare. Blocks are records of 64 bytes in a slab, chained by address; free ones are in lists by size, of which a bitmap knows which are not
//! empty. So a request looks at eight blocks of a class at most (at all that are long enough only before it is refused), and memory is given back in constant
//! time, without a driver call, by a handle that is known to be stale afterwards.
//!
//! Memory comes in *chunks* of one page or of eight, created while the ledger grants them and never split. Chunks that hold nothing are taken from where they are
//! and mapped where they are needed when the limit leaves no more to create: that costs a quarter of a new one, and it is why fragmentation of addresses
//! is no fragmentation of memory. `caching/ladder.rs` has the rungs that a request climbs.
//!
//! # Why so
//!
//! * *Stream order makes reuse free.* Later work of the same stream comes after all work that used a block before. Another stream gets it when an event
//!   says that the work is done, or behind a wait that is put into its queue; copy streams never wait for compute. Giving back stamps the block
//!   with a counter; an event is recorded only where someone needs to know, and says "everything up to this stamp".
//! * *The budget is the ledger.* A chunk is charged before it exists, so the limit holds at every instant. It may be lowered while running
//!   ([`Allocator::set_budget`]). Who can give something back is asked for exactly what is missing ([`Allocator::on_pressure`]), on the thread that
//!   needs it and under no lock.
//! * *After each rung the search begins again*, so no request is refused while a block that fits is free.
//! * *No driver call under the lock of the books.* Other threads go on allocating while one maps.
//! * *A failure changes nothing*: tests let every driver call fail once, in three ways.
//! * *What holds nothing is moved before much more is created*: where more would be held than 1.5 % (and 80 pages) beyond the most that was ever in use.
//!   Earlier, and also for less, it scatters what stays; never, and some traces hold 5 % more. [`Settings::slack_permille`] says how much.
//! * *A small block that was just given back is kept as it is*, for the next request of its size: half the time of a pair.
//! * *Threads that get in each other's way keep blocks of their own*: from the second thread on that finds the books locked, what a thread gives back goes into a
//!   magazine of the thread and the stream, and comes out of it again, under a lock that nobody else asks for. Two threads take a third of the time. To the books such
//!   a block is lent; they take all of them back before they create, move, refuse or report anything. Large blocks only if their size comes again, and only so many
//!   bytes. One thread alone never has any, so that its addresses depend on its requests alone ([`Settings::magazines`]).
//! * *One word says whether there is anything else to do*: magazines, a clock. What is rare lies behind it, out of line, and a peak is noticed by the
//!   subtraction that counts (`caching/counts.rs`), so that a pair is some 230 instructions, two of them locked.
//!
//! # What not
//!
//! No rounding to powers of two, no splitting threshold, no pools that cannot lend to each other: what PyTorch needs them for does not arise here.
//! No clock: a trace counts events. Statistics have PyTorch's names where the meaning is the same ([`AllocatorStatistics::by_name`]),
//! [`Settings::parse`] reads settings in PyTorch's form, and a [`Snapshot`] is for PyTorch's viewer.
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
#![cfg_attr(not(test), forbid(unsafe_code))]
#![cfg_attr(test, deny(unsafe_code))]

mod arena;
#[expect(
    clippy::cast_possible_truncation,
    reason = "pages, slots and stamps of tables in memory fit into `usize`, slack is below 512"
)]
mod caching;
mod error;
mod opcode;
#[expect(clippy::cast_possible_truncation, reason = "lengths of at most 8")]
mod snapshot;
mod sync;
#[cfg(test)]
mod tests;
mod trace;

pub use arena::{ALIGNMENT_BYTES, Buffer, Config, Placement, Pool, Recording, Statistics};
pub use caching::{
    Action, Allocator, AllocatorStatistics, Crumbs, DeviceBuffer, Event, Events, Gauge, Handle, Magazines,
    Need, OnStream, PoolCounts, PressureHandler, Registration, Scope, Settings, Sizes, Step, StepHandle,
    Steps, Tag, Times, Urgency,
};
pub use error::{Error, OutOfBudget, OutOfMemory, Result};
pub use snapshot::{BlockState, Segment, SegmentBlock, Snapshot};
pub use trace::{Op, Plan, Replay, Slot, Trace};
