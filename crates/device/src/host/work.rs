use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;

use super::flags::Flag;
use super::link::Link;
use super::ticket::{Outcome, Ticket};
use crate::{Address, Stamp, Workers};

/// Queued operations of a stream before a call waits for room; CUDA's queues have about this depth too.
pub(super) const QUEUE_MAX: usize = 1024;

/// A kernel with its parameters, to be run as often as it is queued; a failure is its message.
pub(super) type Run = Arc<dyn Fn(&Workers) -> Outcome + Send + Sync>;

/// One queued operation of a stream. Addresses are plain numbers: whoever queued it promised that they stay valid until it is done.
pub(super) enum Work {
    /// Moves bytes, over the link if one side is host memory.
    Copy(Transfer),
    /// Sets every byte of a range.
    Fill { target: Address, value: u8, bytes: usize },
    /// Runs a kernel with the parameters that it holds.
    Kernel { name: &'static str, run: Run },
    /// Reaches a ticket.
    Record(Arc<Ticket>),
    /// Waits for a ticket.
    Wait(Arc<Ticket>),
    /// Raises a flag.
    Raise(Flag),
    /// Waits for a flag, and lowers it.
    Take(Flag),
    /// Notes the time.
    Stamp(Stamp),
}

impl Work {
    /// The same once more, if it can be done more than once: what a graph consists of.
    pub(super) fn again(&self) -> Option<Self> {
        Some(match self {
            Self::Copy(Transfer { target, source: Source::At(source), bytes, over_link }) => {
                let (source, bytes) = (Source::At(*source), *bytes);
                Self::Copy(Transfer { target: *target, source, bytes, over_link: *over_link })
            }
            Self::Fill { target, value, bytes } => {
                Self::Fill { target: *target, value: *value, bytes: *bytes }
            }
            Self::Kernel { name, run } => Self::Kernel { name, run: Arc::clone(run) },
            Self::Raise(flag) => Self::Raise(flag.clone()),
            Self::Take(flag) => Self::Take(flag.clone()),
            Self::Copy(_) | Self::Record(_) | Self::Wait(_) | Self::Stamp(_) => return None,
        })
    }
}

/// A copy between two ranges that do not overlap.
pub(super) struct Transfer {
    pub(super) target: Address,
    pub(super) source: Source,
    pub(super) bytes: usize,
    /// Whether one side is host memory.
    pub(super) over_link: bool,
}

/// Where a copy reads.
pub(super) enum Source {
    /// Memory that stays as it is until the copy is done.
    At(Address),
    /// Bytes taken when the copy was queued.
    Staged(Box<[u8]>),
}

impl Source {
    /// Where it is, unless the bytes were taken.
    pub(super) const fn address(&self) -> Option<Address> {
        match self {
            Self::At(address) => Some(*address),
            Self::Staged(_) => None,
        }
    }

    fn pointer(&self) -> *const u8 {
        match self {
            Self::At(address) => pointer_mut(*address).cast_const(),
            Self::Staged(bytes) => bytes.as_ptr(),
        }
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copy(copy) => write!(f, "copy of {} bytes", copy.bytes),
            Self::Fill { bytes, .. } => write!(f, "fill of {bytes} bytes"),
            Self::Kernel { name, .. } => f.write_str(name),
            Self::Record(_) => f.write_str("record"),
            Self::Wait(_) => f.write_str("wait"),
            Self::Raise(flag) => write!(f, "raise of flag {}", flag.index),
            Self::Take(flag) => write!(f, "take of flag {}", flag.index),
            Self::Stamp(_) => f.write_str("stamp"),
        }
    }
}

/// What work runs on: the threads of the kernels and the link of the copies.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) workers: Workers,
    pub(super) link: Option<Link>,
}

impl Machine {
    /// Does a copy, a fill or a kernel to its end. A panic in a kernel becomes a message.
    ///
    /// # Safety
    /// - What was promised when the work was queued holds: see [`Backend`](crate::Backend)'s calls.
    pub(super) unsafe fn perform(&self, work: Work) -> Outcome {
        match work {
            Work::Copy(copy) => {
                // SAFETY: the caller's promise.
                unsafe { self.copy(&copy) };
                Ok(())
            }
            Work::Fill { target, value, bytes } => {
                // SAFETY: the range is mapped until the work is done, as promised when it was queued.
                unsafe { ptr::write_bytes(pointer_mut(target), value, bytes) };
                Ok(())
            }
            Work::Kernel { name, run } => {
                let _inside = Inside::enter();
                // The kernel's memory is only read again after its failure was reported, so a half-done result is not mistaken for a whole one.
                catch_unwind(AssertUnwindSafe(|| run(&self.workers)))
                    .unwrap_or_else(|panic| Err(format!("kernel {name} panicked: {}", message(&*panic))))
            }
            Work::Stamp(stamp) => {
                stamp.reach();
                Ok(())
            }
            Work::Raise(flag) => flag.raise(),
            Work::Take(flag) => flag.take(),
            Work::Record(_) | Work::Wait(_) => Ok(()),
        }
    }

    /// # Safety
    /// - Both ranges are valid and do not overlap.
    unsafe fn copy(&self, copy: &Transfer) {
        let (source, target) = (copy.source.pointer(), pointer_mut(copy.target));
        let piece = |from: usize, length: usize| {
            // SAFETY: `from + length <= copy.bytes`: `transfer` cuts that range into pieces.
            let source = unsafe { source.add(from) };
            // SAFETY: as above.
            let target = unsafe { target.add(from) };
            // SAFETY: both ranges are valid for `copy.bytes` bytes and do not overlap, as promised when the copy was queued.
            unsafe { ptr::copy_nonoverlapping(source, target, length) };
        };
        match &self.link {
            Some(link) if copy.over_link => link.transfer(copy.bytes, piece),
            _ => piece(0, copy.bytes),
        }
    }
}

pub(super) fn pointer_mut(address: Address) -> *mut u8 {
    // Every address came from a mapping or from a caller's pointer, whose provenance was exposed there.
    ptr::with_exposed_provenance_mut(usize::try_from(address.0).unwrap_or(usize::MAX))
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&'static str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Marks a thread as running a kernel, which may not call the device: waiting there for itself would never end.
pub(super) struct Inside(());

impl Inside {
    fn enter() -> Self {
        INSIDE.set(true);
        Self(())
    }

    /// Whether this thread runs a kernel right now.
    pub(super) fn is_here() -> bool {
        INSIDE.get()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}
