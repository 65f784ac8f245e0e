//! Copies whose source may change as soon as the call returns.

use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys;

use super::api::{check_of, give_back};
use super::context::Context;
use super::stream::{CudaEvent, CudaStream};
use crate::Result;

/// Copies up to this size are staged, larger ones are waited for.
pub(super) const SLOT_BYTES: usize = 64 << 10;

/// Copies that can be under way before a caller waits for the oldest.
const SLOTS: usize = 4;

/// A small ring of page-locked memory, 256 KiB, which counts to the context: no plan has to know of it. The driver's own staging would do, but
/// where the GPU reads pageable memory by itself (GH200, HMM) the driver need not take the bytes before it returns.
#[derive(Debug)]
pub(super) struct Staging {
    first: Pinned,
    slots: Mutex<Slots>,
    context: Arc<Context>,
}

#[derive(Debug)]
struct Slots {
    /// Recorded behind the last copy out of each slot.
    copied: Vec<CudaEvent>,
    next: usize,
}

#[derive(Debug)]
struct Pinned(*mut u8);

// SAFETY: page-locked memory belongs to the process, not to a thread; it is written under the lock only.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Sync for Pinned {}

impl Staging {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self> {
        let copied = (0..SLOTS).map(|_| CudaEvent::new(context)).collect::<Result<_>>()?;
        context.enter()?;
        let mut first: *mut c_void = ptr::null_mut();
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE;
        // SAFETY: writes one pointer; a context is current.
        let code = unsafe { sys::cuMemHostAlloc(&raw mut first, SLOTS * SLOT_BYTES, flags) };
        check_of("cuMemHostAlloc", format_args!("{} bytes", SLOTS * SLOT_BYTES), code)?;
        let slots = Mutex::new(Slots { copied, next: 0 });
        Ok(Self { first: Pinned(first.cast()), slots, context: Arc::clone(context) })
    }

    /// Takes `bytes` bytes, [`SLOT_BYTES`] at most, and queues their copy.
    ///
    /// # Safety
    /// - `source` is valid for `bytes` bytes of reads; `target` is mapped for as many until the copy is done, and no unordered work touches it.
    pub(super) unsafe fn copy(
        &self,
        stream: &CudaStream,
        target: u64,
        source: *const u8,
        bytes: usize,
    ) -> Result<()> {
        assert!(bytes <= SLOT_BYTES, "{bytes} bytes staged, {SLOT_BYTES} at most");
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let index = slots.next;
        slots.copied[index].synchronize()?;
        // SAFETY: `index` is below `SLOTS`.
        let slot = unsafe { self.first.0.add(index * SLOT_BYTES) };
        // SAFETY: the source is valid, as promised; the slot has room (checked), is this call's alone under the lock, and the copy that read it
        // last is done (waited for above). The caller cannot know the slot, so they do not overlap.
        unsafe { ptr::copy_nonoverlapping(source, slot, bytes) };
        let raw = stream.entered()?;
        // SAFETY: the target is mapped, as promised; the slot stays as it is until the event, recorded next, was waited for.
        let code = unsafe { sys::cuMemcpyHtoDAsync_v2(target, slot.cast_const().cast(), bytes, raw) };
        check_of("cuMemcpyHtoDAsync", format_args!("{bytes} bytes to {target:#x}"), code)?;
        slots.next = (index + 1) % SLOTS;
        // Without the event the slot would be free too early.
        stream.record(&slots.copied[index]).or_else(|error| stream.synchronize().and(Err(error)))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let slots = self.slots.get_mut().unwrap_or_else(PoisonError::into_inner);
        for copied in &slots.copied {
            // A failure was reported by the stream.
            let _ = copied.synchronize();
        }
        if self.context.enter_to_give_back() {
            // SAFETY: allocated by `new`; the copies out of it are done.
            let _ = give_back("cuMemFreeHost", || unsafe { sys::cuMemFreeHost(self.first.0.cast()) });
        }
    }
}
