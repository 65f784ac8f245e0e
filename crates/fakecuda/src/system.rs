//! The few calls of the operating system that device memory is made of.

use std::ffi::{c_char, c_int, c_long, c_void};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

const PROT_NONE: c_int = 0;
const PROT_READ_WRITE: c_int = 3;
const MAP_SHARED: c_int = 1;
const MAP_PRIVATE: c_int = 2;
const MAP_FIXED: c_int = 0x10;
const MAP_ANONYMOUS: c_int = 0x20;
const MAP_NORESERVE: c_int = 0x4000;
const PUNCH_HOLE_KEEP_SIZE: c_int = 3;

unsafe extern "C" {
    fn mmap(
        address: *mut c_void,
        length: usize,
        access: c_int,
        flags: c_int,
        file: c_int,
        offset: c_long,
    ) -> *mut c_void;
    fn munmap(address: *mut c_void, length: usize) -> c_int;
    fn mprotect(address: *mut c_void, length: usize, access: c_int) -> c_int;
    fn memfd_create(name: *const c_char, flags: u32) -> c_int;
    fn ftruncate(file: c_int, length: c_long) -> c_int;
    fn fallocate(file: c_int, mode: c_int, offset: c_long, length: c_long) -> c_int;
}

/// A sparse file without a name.
pub(crate) fn sparse_file(bytes: u64) -> Option<OwnedFd> {
    // SAFETY: reads a string that ends in zero.
    let file = unsafe { memfd_create(c"fake device memory".as_ptr(), 1) };
    if file < 0 {
        return None;
    }
    // SAFETY: opened just now.
    let owned = unsafe { OwnedFd::from_raw_fd(file) };
    // SAFETY: it is open.
    let sized = unsafe { ftruncate(file, c_long::try_from(bytes).ok()?) };
    (sized == 0).then_some(owned)
}

/// Forgets the pages of a piece of the file.
pub(crate) fn forget(file: RawFd, offset: u64, bytes: u64) {
    let (Ok(offset), Ok(bytes)) = (c_long::try_from(offset), c_long::try_from(bytes)) else { return };
    // SAFETY: it is open; the piece is mapped nowhere. A refusal costs memory only.
    let _ = unsafe { fallocate(file, PUNCH_HOLE_KEEP_SIZE, offset, bytes) };
}

/// Addresses without memory, aligned; none if there are not so many.
pub(crate) fn reserve(bytes: usize, align: usize) -> Option<usize> {
    let padded = bytes.checked_add(align)?;
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    // SAFETY: without MAP_FIXED no memory of the process changes.
    let start = unsafe { mmap(std::ptr::null_mut(), padded, PROT_NONE, flags, -1, 0) }.expose_provenance();
    if start == usize::MAX {
        return None;
    }
    let aligned = start.next_multiple_of(align);
    for (from, to) in [(start, aligned), (aligned + bytes, start + padded)] {
        if from < to {
            release(from, to - from);
        }
    }
    Some(aligned)
}

/// Gives addresses back.
pub(crate) fn release(address: usize, bytes: usize) {
    // SAFETY: the range was made by `reserve`, and the driver's books say that nothing uses it.
    let _ = unsafe { munmap(std::ptr::with_exposed_provenance_mut(address), bytes) };
}

/// Shows a piece of the file at an address of a reservation, without access.
pub(crate) fn show(file: RawFd, offset: u64, address: usize, bytes: usize) -> bool {
    let Ok(offset) = c_long::try_from(offset) else { return false };
    let target = std::ptr::with_exposed_provenance_mut(address);
    // SAFETY: MAP_FIXED replaces pages of a reservation that nothing uses, by the driver's books.
    let got = unsafe { mmap(target, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, file, offset) };
    got == target
}

/// Turns mapped pages back into a reservation.
pub(crate) fn hide(address: usize, bytes: usize) -> bool {
    let target = std::ptr::with_exposed_provenance_mut(address);
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    // SAFETY: as in `show`.
    let got = unsafe { mmap(target, bytes, PROT_NONE, flags, -1, 0) };
    got == target
}

/// Makes pages readable and writable.
pub(crate) fn open(address: usize, bytes: usize) -> bool {
    // SAFETY: the range is mapped, by the driver's books.
    unsafe { mprotect(std::ptr::with_exposed_provenance_mut(address), bytes, PROT_READ_WRITE) == 0 }
}
