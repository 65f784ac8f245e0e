//! Memory, streams, events, launches and the ledger, on `Cuda`, `Host` or `Sim`.
//!
//! Everything above this crate is written once, generic over [`Backend`], and runs on real memory, on a checked imitation of a GPU, or on
//! numbers alone.
//!
//! # Reading order
//!
//! 1. [`Backend`]: the driver calls of one device, raw. Physical memory ([`ChunkId`]) and addresses ([`Address`]) are separate things,
//!    joined by maps; work is queued on streams and ordered between them by events.
//! 2. [`Device`], [`Chunk`], [`Reservation`], [`Pinned`], [`Registered`], [`Stream`], [`Event`]: shells that own what they make. Each byte is granted by
//!    a [`Ledger`] before it exists and goes back when the shell is dropped. What a `Drop` cannot return, the device's next call does.
//! 3. [`View`]: a tensor in device memory as a launch sees it. [`Kernel`]: what can be launched.
//! 4. [`Cuda`], [`Host`] and [`Sim`]: three backends.
//! 5. [`Stream::capture`], [`Stream::replay`] and [`Flags`]: work that is recorded once and queued by one call, and what joins such work of two streams.
//! 6. [`Recorder`]: what the streams did and when, for traces and reports.
//!
//! # Which backend for what
//!
//! | | memory | work | for |
//! |---|---|---|---|
//! | [`Cuda`] | the driver's virtual memory management | the driver's streams, events, graphs | running on a GPU |
//! | [`Host`] | a sparse file in memory, mapped where chunks are mapped | a thread for each stream, [`Workers`] inside kernels | running without a GPU; real asynchrony, sanitizers, `/proc` |
//! | [`Host`] with a [seed](HostConfig::seed) | the same, with memory in flight poisoned | no threads: whose turn it is, is drawn | finding missing events and unhandled failures, repeatably |
//! | [`Host`], [emulating](HostConfig::emulate) | the same | kernels are the CUDA sources on the emulator | the CUDA path without a GPU: its grids, its parameters, its bits, but for the driver |
//! | [`Sim`] | none | a virtual clock, by the [`Rates`] of a [`Profile`] | plans: the same program, its addresses, its peak and its time, in milliseconds |
//!
//! [`cuda::probe`] says what there is of CUDA on a machine.
//!
//! # Why so
//!
//! * *Virtual memory.* Reserve, create, map, set access, as CUDA's driver has it (`cuMemAddressReserve`, `cuMemCreate`, `cuMemMap`,
//!   `cuMemSetAccess`), is the smallest set of calls with which a tensor can stay in one piece while its pages come and go, and with which two
//!   tensors can share pages that only one of them needs at a time. `mmap` does all of it, so `Host` is no mock: aliases are aliases, and a
//!   use after unmap is a fault at the address, not a wrong number later.
//! * *One ledger.* A budget that is checked after the fact is a hope. Here an allocation over the cap is an [`Error::OutOfBudget`] with its
//!   numbers, and nothing else has happened.
//! * *The stream is part of the view.* The most frequent fault of such programs is memory used on a stream that does not order it. A
//!   [`View`] names its stream and another one refuses it ([`Error::WrongStream`]); what crosses streams does so where the code says `wait`.
//! * *Failures travel with the work.* A kernel that panics fails its stream, and what waits for its event fails too. A result that was never
//!   computed is not read, nothing hangs, and other streams go on.
//! * *Threads change no bit.* Kernels cut their work by sizes alone, and a task writes what no other touches ([`Workers::for_each`]).
//!
//! # The seeded mode
//!
//! On threads a missing event is a race that a test loses once a month. With [`HostConfig::seed`] the queues of all streams are worked off in
//! an order drawn from the seed, at moments drawn from the seed, by the calls of the program itself. The bytes that a queued copy or fill will
//! write hold 0xFF, NaN in every float type, from the moment when nothing ordered before it can still read them. Whoever reads without
//! having waited finds NaN; a correct program finds what it should under every seed. Fresh memory holds 0xFF as well.
//! [`HostConfig::fail_call`] lets any one driver call fail: with [`Host::driver_calls`] a test can try them all, and [`Host::usage`] says
//! whether anything was left behind.
//!
//! # What not
//!
//! No allocator (one map is a system call: see `allocator`), no tensors that own memory (`ops`), no knowledge of shapes beyond a
//! [`View`]'s layout. `Sim` knows no caches, no occupancy and no waves of blocks: a kernel takes what the roofline says.
//! A process that forks keeps no device: threads do not survive a fork.
//!
//! # Unsafe code
//!
//! This is one of the few crates that have any. The inventory:
//!
//! * `host/pages.rs` calls `mmap` and its kin; `host/memory.rs` calls it only where the books of `space.rs` allow, under their lock.
//! * `host/emulated.rs` runs the CUDA sources, on the same promises as the host functions.
//! * `host/work.rs` copies, fills and runs kernels: the promises made to [`Backend`]'s unsafe calls, kept until the work's turn.
//! * `host/seeded.rs` does the same, and poisons.
//! * `crew.rs` lends tasks on a caller's stack to helper threads, and does not return before they have let go.
//! * `cuda/` calls the driver: each call with what makes its arguments right, memory under the books of `space.rs`; a handle is destroyed by the
//!   drop of what owns it.
//! * The shells call [`Backend`] after the checks that its conditions ask for. Launching a kernel stays unsafe for whoever does it: only
//!   the op that fills the parameters can know how far it reaches.
//!
//! # Example
//!
//! ```
//! use lighterage_device::{Device, Host, HostConfig, Ledger, Purpose, StreamKind, View};
//! use lighterage_shape::{DType, Layout};
//!
//! # fn main() -> lighterage_device::Result<()> {
//! let device = Device::new(Host::new(HostConfig::default())?, Ledger::new(1 << 20), Ledger::new(0));
//! let bytes = device.round_up(16);
//! let range = device.reserve(bytes)?;
//! range.map(0, &device.create(Purpose::Activations, bytes)?)?;
//! range.set_access(0, bytes)?;
//!
//! let stream = device.stream(StreamKind::Compute)?;
//! // SAFETY: sixteen bytes are mapped there until `range` is dropped, after the last read; this stream alone uses them.
//! let view = unsafe { View::new(range.address(), Layout::contiguous(DType::F32, &[4]), stream.id()) };
//! stream.upload(view, &[1_f32, 2.0, 3.0, 4.0])?;
//! assert_eq!(stream.read::<f32>(view.rows(1, 2)?)?, Some(vec![2.0, 3.0]));
//! # Ok(())
//! # }
//! ```

mod backend;
mod gate;
mod graph;
mod ledger;
mod memory;
mod stream;
mod view;

mod crew;
mod kernel;
mod workers;

mod recorder;

pub mod cuda;
mod host;
mod page_cache;
mod sim;
mod space;

mod error;

pub use backend::{Address, Backend, ChunkId, Info, Modelled, StreamKind};
pub use cuda::{Cuda, CudaConfig, CudaEvent, CudaFlags, CudaStream, Graph, ProductLibrary};
pub use error::{Error, OutOfBudget, Result};
pub use graph::{FLAG_BYTES, Flags};
pub use host::{Emulation, Host, HostConfig, HostEvent, HostFlags, HostGraph, HostStream};
pub use kernel::{Cost, Kernel};
pub use ledger::{Grant, Ledger, Purpose};
pub use lighterage_kernels::gemm::linear::Call as ProductCall;
pub use lighterage_kernels::gemm::table::Table as ProductTable;
pub use lighterage_kernels::launch::{Arch, Launches, Target};
pub use memory::{Chunk, Device, Pinned, Registered, Reservation};
pub use page_cache::drop_from_page_cache;
pub use recorder::{
    Clock, Counter, Counts, Dependency, Detail, Open, Recorder, Recording, Sample, Span, Stamp, What,
};
pub use sim::{
    CallCost, MemoryCalls, MemoryCosts, Profile, Rates, Sim, SimConfig, SimCounters, SimEvent, SimFlags,
    SimGraph, SimStream, Traffic,
};
pub use space::Usage;
pub use stream::{Event, Stream, StreamId};
pub use view::View;
pub use workers::{Isa, Workers};
