//! Device memory by the driver's virtual memory management, and page-locked host memory.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};

use super::api::{check, check_of, give_back_of, size};
use super::context::Context;
use super::host_pages;
use crate::space::{Space, Usage};
use crate::{Address, ChunkId, Error, Result};

/// Usable by every context, not only by the one that pinned it.
const PORTABLE: u32 = sys::CU_MEMHOSTALLOC_PORTABLE;

/// The memory of a device: the rules, and the driver behind them. Streams own it too, so that pending work still finds it.
#[derive(Debug)]
pub(super) struct Memory {
    context: Arc<Context>,
    page: u64,
    /// Whether it page-locks memory of the process's own; else it allocates what is to be page-locked.
    locks_own_memory: bool,
    books: Mutex<Books>,
}

#[derive(Debug)]
struct Books {
    space: Space,
    /// The driver's names of the chunks that it was not brought to release.
    handles: BTreeMap<ChunkId, u64>,
}

impl Memory {
    pub(super) fn new(context: Arc<Context>, capacity: u64) -> Result<Self> {
        context.enter()?;
        let (properties, mut page) = (properties(&context), 0_usize);
        let minimum = sys::CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM;
        // SAFETY: writes one number, reads one struct; a context is current.
        let code =
            unsafe { sys::cuMemGetAllocationGranularity(&raw mut page, &raw const properties, minimum) };
        check("cuMemGetAllocationGranularity", code)?;
        let page = page as u64;
        let books = Books { space: Space::new(page, capacity), handles: BTreeMap::new() };
        let locks = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED)?;
        Ok(Self { context, page, locks_own_memory: locks != 0, books: Mutex::new(books) })
    }

    /// Smallest piece of memory.
    pub(super) const fn page(&self) -> u64 {
        self.page
    }

    pub(super) fn reserve(&self, bytes: u64) -> Result<Address> {
        self.context.enter()?;
        self.books().space.reserve(bytes, || {
            let mut address = 0;
            // SAFETY: writes one address; a context is current.
            let code =
                unsafe { sys::cuMemAddressReserve(&raw mut address, size(bytes), size(self.page), 0, 0) };
            check_of("cuMemAddressReserve", format_args!("{bytes} bytes"), code)?;
            Ok(Address(address))
        })
    }

    /// # Safety
    /// - No pending work uses the range.
    pub(super) unsafe fn unreserve(&self, address: Address, bytes: u64) -> Result<()> {
        let mut reported = self.context.enter_all_the_same()?;
        let gone = self.books().space.unreserve(address, bytes, || {
            // SAFETY: the books say that `reserve` made the range and nothing is mapped in it; nothing uses it, as promised.
            let free = || unsafe { sys::cuMemAddressFree(address.0, size(bytes)) };
            let asked = format_args!("{bytes} bytes at {address}");
            settle(give_back_of("cuMemAddressFree", asked, free), &mut reported)
        });
        gone.and(reported)
    }

    pub(super) fn create(&self, bytes: u64) -> Result<ChunkId> {
        self.context.enter()?;
        let properties = properties(&self.context);
        let Books { space, handles } = &mut *self.books();
        let refused = space.out_of_memory(bytes);
        let mut handle = 0;
        let id = space.create(bytes, |_| {
            // SAFETY: writes one handle, reads one struct; a context is current.
            let code = unsafe { sys::cuMemCreate(&raw mut handle, size(bytes), &raw const properties, 0) };
            match check_of("cuMemCreate", format_args!("{bytes} bytes"), code) {
                Err(Error::Driver { code, .. }) if code == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY as i32 => {
                    Err(refused)
                }
                outcome => outcome,
            }
        })?;
        handles.insert(id, handle);
        Ok(id)
    }

    pub(super) fn destroy(&self, chunk: ChunkId) -> Result<()> {
        let entered = self.context.enter_all_the_same()?;
        let Books { space, handles } = &mut *self.books();
        space.destroy(chunk)?;
        let Some(handle) = handles.get(&chunk).copied() else { return entered };
        // SAFETY: `create` made it and the books say that it is destroyed now. Where it is mapped the driver keeps it until the last unmap.
        let release = || unsafe { sys::cuMemRelease(handle) };
        let (outcome, done) = give_back_of("cuMemRelease", format_args!("handle {handle:#x}"), release);
        if done {
            handles.remove(&chunk);
        }
        entered.and(outcome)
    }

    /// # Safety
    /// - Nothing uses the range.
    pub(super) unsafe fn map(&self, address: Address, chunk: ChunkId, bytes: u64) -> Result<()> {
        self.context.enter()?;
        let Books { space, handles } = &mut *self.books();
        let handle = handles.get(&chunk).copied().unwrap_or_default();
        space.map(address, chunk, bytes, |_| {
            // SAFETY: the books say that the range lies in a reservation, nothing is mapped there, and the chunk has this size and was not
            // destroyed, so that its handle is here.
            let code = unsafe { sys::cuMemMap(address.0, size(bytes), 0, handle, 0) };
            check_of("cuMemMap", format_args!("{bytes} bytes at {address}"), code)
        })
    }

    pub(super) fn set_access(&self, address: Address, bytes: u64) -> Result<()> {
        self.context.enter()?;
        let access = sys::CUmemAccessDesc {
            location: location(&self.context),
            flags: sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
        self.books().space.set_access(address, bytes, || {
            // SAFETY: the books say that the range consists of whole maps of one reservation; reads one struct.
            let code = unsafe { sys::cuMemSetAccess(address.0, size(bytes), &raw const access, 1) };
            check_of("cuMemSetAccess", format_args!("{bytes} bytes at {address}"), code)
        })
    }

    /// Map by map: the driver promises no more than to undo what one call has mapped.
    ///
    /// # Safety
    /// - No pending work uses the range.
    pub(super) unsafe fn unmap(&self, address: Address, bytes: u64) -> Result<()> {
        let mut reported = self.context.enter_all_the_same()?;
        let space = &mut self.books().space;
        for (start, length) in space.whole_maps_of("unmap", address, bytes)? {
            let gone = space.unmap(start, length, || {
                // SAFETY: the books say that this is one whole map; nothing uses it, as promised.
                let unmap = || unsafe { sys::cuMemUnmap(start.0, size(length)) };
                let asked = format_args!("{length} bytes at {start}");
                settle(give_back_of("cuMemUnmap", asked, unmap), &mut reported)
            });
            // What the driver keeps stays in the books, and the others still go.
            if let (Err(error), true) = (gone, reported.is_ok()) {
                reported = Err(error);
            }
        }
        reported
    }

    pub(super) fn pin(&self, bytes: u64) -> Result<Address> {
        self.context.enter()?;
        self.books().space.pin(bytes, || {
            if self.locks_own_memory {
                return lock_own(bytes);
            }
            let mut first: *mut c_void = ptr::null_mut();
            let length = pinned_length(bytes);
            // SAFETY: writes one pointer; a context is current.
            let code = unsafe { sys::cuMemHostAlloc(&raw mut first, length, PORTABLE) };
            check_of("cuMemHostAlloc", format_args!("{length} bytes"), code)?;
            // SAFETY: the driver has just given `length` bytes there, to nobody else.
            unsafe { ptr::write_bytes(first.cast::<u8>(), 0, length) };
            Ok(Address(first.expose_provenance() as u64))
        })
    }

    /// # Safety
    /// - No pending work uses the range.
    pub(super) unsafe fn unpin(&self, address: Address, bytes: u64) -> Result<()> {
        let mut reported = self.context.enter_all_the_same()?;
        let gone = self.books().space.unpin(address, bytes, || {
            // SAFETY: the books say that `pin` made it; nothing uses it, as promised.
            unsafe { self.free_pinned(address, bytes, &mut reported) }
        });
        gone.and(reported)
    }

    /// # Safety
    /// - [`pin`](Self::pin) made it, and nothing uses it any more.
    unsafe fn free_pinned(&self, address: Address, bytes: u64, reported: &mut Result<()>) -> Result<()> {
        let asked = format_args!("{bytes} bytes at {address}");
        if !self.locks_own_memory {
            // SAFETY: the caller's promise.
            let free = || unsafe { sys::cuMemFreeHost(host_pointer(address)) };
            return settle(give_back_of("cuMemFreeHost", asked, free), reported);
        }
        // SAFETY: the caller's promise.
        let free = || unsafe { sys::cuMemHostUnregister(host_pointer(address)) };
        settle(give_back_of("cuMemHostUnregister", asked, free), reported)?;
        // SAFETY: as above, and the driver does not know it any more.
        unsafe { host_pages::unmap(address, bytes) }
    }

    /// Read-only where the driver can: a file that is mapped so is refused else.
    ///
    /// # Safety
    /// - The range is valid for reads until it is unregistered.
    pub(super) unsafe fn register(&self, first: Address, bytes: u64) -> Result<()> {
        self.context.enter()?;
        let reads_only =
            self.context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED)? != 0;
        let flags =
            sys::CU_MEMHOSTREGISTER_PORTABLE | if reads_only { sys::CU_MEMHOSTREGISTER_READ_ONLY } else { 0 };
        self.books().space.register(first, bytes, || {
            // SAFETY: valid memory that stays mapped, as promised; copies only read it.
            let code = unsafe { sys::cuMemHostRegister_v2(host_pointer(first), size(bytes), flags) };
            check_of("cuMemHostRegister", format_args!("{bytes} bytes at {first}, flags {flags}"), code)
        })
    }

    /// # Safety
    /// - No pending work uses the range.
    pub(super) unsafe fn unregister(&self, first: Address, bytes: u64) -> Result<()> {
        let mut reported = self.context.enter_all_the_same()?;
        let gone = self.books().space.unregister(first, bytes, || {
            // SAFETY: the books say that `register` did it; nothing uses it, as promised.
            let free = || unsafe { sys::cuMemHostUnregister(host_pointer(first)) };
            let asked = format_args!("{bytes} bytes at {first}");
            settle(give_back_of("cuMemHostUnregister", asked, free), &mut reported)
        });
        gone.and(reported)
    }

    /// Refuses a range that is not mapped with access.
    pub(super) fn accessible(&self, call: &'static str, address: Address, bytes: u64) -> Result<()> {
        self.books().space.accessible(call, address, bytes)
    }

    /// What exists now.
    pub(super) fn usage(&self) -> Usage {
        self.books().space.usage()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // The books change after the last fallible step of a call, so a panic elsewhere leaves them whole.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Memory {
    /// Only what could not be given back is left here. Nobody is left to hear of an error either.
    fn drop(&mut self) {
        if !self.context.enter_to_give_back() {
            return;
        }
        let Books { space, handles } = &*self.books();
        for (address, bytes) in space.maps() {
            // SAFETY: one whole map; streams own this memory too, so no work is pending when it goes.
            let _ = unsafe { sys::cuMemUnmap(address.0, size(bytes)) };
        }
        for (address, bytes) in space.reservations() {
            // SAFETY: made by `reserve`; its maps were undone just now.
            let _ = unsafe { sys::cuMemAddressFree(address.0, size(bytes)) };
        }
        for handle in handles.values() {
            // SAFETY: made by `create` and not released since.
            let _ = unsafe { sys::cuMemRelease(*handle) };
        }
        for (address, bytes) in space.pins() {
            // SAFETY: made by `pin`; no work is pending.
            let freed = unsafe { self.free_pinned(address, bytes, &mut Ok(())) };
            if freed.is_err() && self.locks_own_memory {
                // A context that failed work has ended lets nothing go before it goes itself, which is next.
                // SAFETY: as above, and none comes. The driver holds the pages by itself as long as it knows them.
                let _ = unsafe { host_pages::unmap(address, bytes) };
            }
        }
        for (first, _) in space.registrations() {
            // SAFETY: made by `register`; no work is pending.
            let _ = unsafe { sys::cuMemHostUnregister(host_pointer(first)) };
        }
    }
}

/// What a call that gives something back means for the books: gone if the driver did it in the end, whatever it said first.
fn settle((outcome, done): (Result<()>, bool), reported: &mut Result<()>) -> Result<()> {
    if !done {
        return outcome;
    }
    if reported.is_ok() {
        *reported = outcome;
    }
    Ok(())
}

/// Page-locks zeroed memory of the process's own.
fn lock_own(bytes: u64) -> Result<Address> {
    let address = host_pages::map(bytes)?;
    let (first, length) = (host_pointer(address), host_pages::length(bytes));
    // With a device pointer, as what the driver allocates has one: flags are written through it.
    let flags = sys::CU_MEMHOSTREGISTER_PORTABLE | sys::CU_MEMHOSTREGISTER_DEVICEMAP;
    // SAFETY: memory that was just mapped, and stays so until it is unregistered; a context is current.
    let code = unsafe { sys::cuMemHostRegister_v2(first, length, flags) };
    let locked =
        check_of("cuMemHostRegister", format_args!("{length} bytes at {address}, flags {flags}"), code);
    if locked.is_err() {
        // SAFETY: made above, and refused by the driver.
        unsafe { host_pages::unmap(address, bytes) }?;
    }
    locked.map(|()| address)
}

fn location(context: &Context) -> sys::CUmemLocation {
    sys::CUmemLocation { type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE, id: context.device() }
}

/// Memory of this device alone, that no other process is shown.
fn properties(context: &Context) -> sys::CUmemAllocationProp {
    sys::CUmemAllocationProp {
        type_: sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
        requestedHandleTypes: sys::CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE,
        location: location(context),
        win32HandleMetaData: ptr::null_mut(),
        allocFlags: sys::CUmemAllocationProp_st__bindgen_ty_1 {
            compressionType: 0,
            gpuDirectRDMACapable: 0,
            usage: 0,
            reserved: [0; 4],
        },
    }
}

/// The driver allocates no empty ranges.
fn pinned_length(bytes: u64) -> usize {
    size(bytes).max(1)
}

pub(super) fn host_pointer(address: Address) -> *mut c_void {
    ptr::with_exposed_provenance_mut(size(address.0))
}
