//! The operating system's side of device memory: one file without a name, and address ranges that show pieces of it.

use std::ffi::c_void;
use std::os::fd::OwnedFd;
use std::ptr;

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use rustix::io::{Errno, pwrite};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};

use crate::space::{Extent, OFFSETS};
use crate::{Address, Error, Result};

/// The physical memory of a host device: a sparse file in memory, whose pages come with their first touch and go with a punched hole.
///
/// One file serves all chunks, since a file for each would run into the limit of open files. Its mappings are shared memory: the
/// kernel books them as `RssShmem`, apart from the process's own pages.
#[derive(Debug)]
pub(super) struct Pages {
    file: OwnedFd,
}

impl Pages {
    pub(super) fn new() -> Result<Self> {
        let file = memfd_create("lighterage device memory", MemfdFlags::CLOEXEC)
            .map_err(|errno| refused("memfd_create", errno))?;
        // The length costs nothing: only touched pages exist.
        ftruncate(&file, OFFSETS).map_err(|errno| refused("ftruncate", errno))?;
        Ok(Self { file })
    }

    /// Frees the pages of an extent that is mapped nowhere.
    pub(super) fn free(&self, extent: &Extent) -> Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, flags, extent.start, extent.end - extent.start)
            .map_err(|errno| refused("fallocate", errno))
    }

    /// Writes a byte value over an extent.
    pub(super) fn fill(&self, extent: &Extent, value: u8) -> Result<()> {
        let block = [value; 1 << 14];
        let mut next = extent.start;
        while next < extent.end {
            let length = to_usize(extent.end - next).min(block.len());
            let written =
                pwrite(&self.file, &block[..length], next).map_err(|errno| refused("pwrite", errno))?;
            next += written as u64;
        }
        Ok(())
    }

    /// Shows an extent at an address, without access yet.
    ///
    /// # Safety
    /// - The range at `address` belongs to a reservation of this process, and nothing uses it.
    pub(super) unsafe fn map(&self, address: Address, extent: &Extent) -> Result<()> {
        let flags = MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE;
        let length = to_usize(extent.end - extent.start);
        // SAFETY: FIXED replaces only pages of a reservation that nothing uses, by the caller's promise.
        unsafe { mmap(pointer(address), length, ProtFlags::empty(), flags, &self.file, extent.start) }
            .map_err(|errno| refused("mmap", errno))?;
        Ok(())
    }
}

/// Takes addresses without memory, aligned to `page`, a power of two.
pub(super) fn reserve(bytes: u64, page: u64) -> Result<Address> {
    let Some(padded) = bytes.checked_add(page).and_then(|padded| usize::try_from(padded).ok()) else {
        return Err(refused("mmap", Errno::NOMEM));
    };
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: without FIXED the system chooses free addresses; no memory of this process changes.
    let start = unsafe { mmap_anonymous(ptr::null_mut(), padded, ProtFlags::empty(), flags) }
        .map_err(|errno| refused("mmap", errno))?;
    let start = start.expose_provenance() as u64;
    let aligned = start.next_multiple_of(page);
    // What alignment did not need is given back: less than a page before, the rest of that page behind.
    for (from, to) in [(start, aligned), (aligned + bytes, start + bytes + page)] {
        if from < to {
            // SAFETY: both pieces lie in the mapping made above, outside of the range that is handed out.
            unsafe { unreserve(Address(from), to - from) }?;
        }
    }
    Ok(Address(aligned))
}

/// Gives addresses back, with whatever is mapped there.
///
/// # Safety
/// - The range was made by [`reserve`] or [`pin`], and nothing uses it.
pub(super) unsafe fn unreserve(address: Address, bytes: u64) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { munmap(pointer(address), to_usize(bytes)) }.map_err(|errno| refused("munmap", errno))
}

/// Makes mapped pages readable and writable.
///
/// # Safety
/// - The range belongs to one reservation and is wholly mapped.
pub(super) unsafe fn set_access(address: Address, bytes: u64) -> Result<()> {
    let flags = MprotectFlags::READ | MprotectFlags::WRITE;
    // SAFETY: the caller's promise; more access breaks nobody's assumption about these pages.
    unsafe { mprotect(pointer(address), to_usize(bytes), flags) }.map_err(|errno| refused("mprotect", errno))
}

/// Turns mapped pages back into reserved addresses.
///
/// # Safety
/// - The range belongs to one reservation, and nothing uses it.
pub(super) unsafe fn unmap(address: Address, bytes: u64) -> Result<()> {
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    // SAFETY: FIXED replaces only pages of a reservation that nothing uses, by the caller's promise.
    unsafe { mmap_anonymous(pointer(address), to_usize(bytes), ProtFlags::empty(), flags) }
        .map_err(|errno| refused("mmap", errno))?;
    Ok(())
}

/// Zeroed private memory; the kernel's own pages, so it counts as `RssAnon` once touched.
pub(super) fn pin(bytes: u64) -> Result<Address> {
    let Ok(length) = usize::try_from(bytes) else { return Err(refused("mmap", Errno::NOMEM)) };
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: without FIXED the system chooses free addresses; no memory of this process changes.
    let start = unsafe { mmap_anonymous(ptr::null_mut(), length, access, MapFlags::PRIVATE) }
        .map_err(|errno| refused("mmap", errno))?;
    Ok(Address(start.expose_provenance() as u64))
}

fn pointer(address: Address) -> *mut c_void {
    ptr::with_exposed_provenance_mut(to_usize(address.0))
}

fn to_usize(bytes: u64) -> usize {
    // Device and host share an address space of 64 bits; a range that is too long is refused by the system.
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn refused(call: &'static str, errno: Errno) -> Error {
    Error::Driver { call, code: errno.raw_os_error(), message: errno.to_string() }
}
