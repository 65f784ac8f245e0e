//! Memory of the process's own that the driver is to page-lock.
//!
//! What the driver allocates by itself came page-locked at 2.4 GB/s beside an H100, its clearing by one thread included, while files that were in memory already were
//! page-locked at more than 4 (`benches/results/2026-11-27-h100`). So the memory is there before the driver sees it: in large pages where the system has them, which are
//! fewer to lock, and cleared by several threads.

use std::ffi::c_void;
use std::num::NonZero;
use std::{ptr, thread};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use rustix::param::page_size;

use super::api::size;
use super::memory::host_pointer;
use crate::{Address, Error, Result};

/// Large pages of x86-64 and of most others.
const LARGE: usize = 2 << 20;
/// What a thread has cleared at least: to start one takes some tens of microseconds.
const SHARE: usize = 16 << 20;
const THREADS_MAX: usize = 8;

/// How memory lies in a mapping that is longer than it where it has to begin at a multiple of a large page.
#[derive(Clone, Copy, Debug)]
struct Place {
    length: usize,
    align: usize,
    mapped: usize,
}

impl Place {
    /// `page` is what the system maps at least: 4 KiB, or 16 or 64 on some machines with aarch64.
    fn new(bytes: u64, page: usize) -> Option<Self> {
        let length = whole(bytes, page);
        let align = if length >= LARGE { LARGE } else { page };
        Some(Self { length, align, mapped: length.checked_add(align - page)? })
    }

    /// Where it begins in a mapping that starts there, and what alignment did not need, from here to there: up to `align` before it, the rest of it behind.
    const fn of(self, start: usize) -> (usize, [(usize, usize); 2]) {
        let first = start.next_multiple_of(self.align);
        (first, [(start, first), (first + self.length, start + self.mapped)])
    }
}

/// In whole pages, and at least one: the driver locks no empty range.
fn whole(bytes: u64, page: usize) -> usize {
    size(bytes).max(1).checked_next_multiple_of(page).unwrap_or(usize::MAX)
}

/// Zeroed memory, in whole pages.
pub(super) fn map(bytes: u64) -> Result<Address> {
    let place = Place::new(bytes, page_size()).ok_or_else(|| refused("mmap", Errno::NOMEM))?;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: without FIXED the system chooses free addresses; no memory of this process changes.
    let start = unsafe { mmap_anonymous(ptr::null_mut(), place.mapped, access, MapFlags::PRIVATE) }
        .map_err(|errno| refused("mmap", errno))?
        .expose_provenance();
    let (first, spare) = place.of(start);
    for (from, to) in spare {
        if from < to {
            // SAFETY: both pieces lie in the mapping made above, outside of the range that is handed out.
            unsafe { munmap(ptr::with_exposed_provenance_mut(from), to - from) }
                .map_err(|errno| refused("munmap", errno))?;
        }
    }
    let length = place.length;
    if length >= LARGE {
        populate(first, length);
    }
    Ok(Address(first as u64))
}

/// # Safety
/// - [`map`] made it with so many bytes, and nothing uses it any more.
pub(super) unsafe fn unmap(address: Address, bytes: u64) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { munmap(host_pointer(address), length(bytes)) }.map_err(|errno| refused("munmap", errno))
}

/// What [`map`] makes for so many bytes.
pub(super) fn length(bytes: u64) -> usize {
    whole(bytes, page_size())
}

/// Has the system make the pages, by several threads. Whatever it refuses (it may be older than the wish) the driver's own touch brings later.
fn populate(first: usize, length: usize) {
    advise(first, length, Advice::LinuxHugepage);
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = cores.min(THREADS_MAX).min(length / SHARE).max(1);
    let share = length.div_ceil(threads).next_multiple_of(LARGE);
    thread::scope(|scope| {
        for start in (0..length).step_by(share) {
            let bytes = share.min(length - start);
            scope.spawn(move || advise(first + start, bytes, Advice::LinuxPopulateWrite));
        }
    });
}

fn advise(first: usize, length: usize, advice: Advice) {
    let first: *mut c_void = ptr::with_exposed_provenance_mut(first);
    // SAFETY: neither wish changes what memory holds; the range is a mapping of this module's that nobody knows yet.
    let _ = unsafe { madvise(first, length, advice) };
}

fn refused(call: &'static str, errno: Errno) -> Error {
    Error::Driver { call, code: errno.raw_os_error(), message: errno.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_whole_zeroed_and_given_back() {
        for bytes in [0, 1, 4097, 2 << 20, (2 << 20) + 1, 40 << 20] {
            let address = map(bytes).unwrap();
            let length = length(bytes);
            let most = bytes + page_size() as u64;
            assert!(length as u64 >= bytes.max(1) && length as u64 <= most, "{length} of {bytes}");
            assert!(length < LARGE || address.0.is_multiple_of(LARGE as u64), "{address:?}");
            let first: *mut u8 = host_pointer(address).cast();
            // SAFETY: `map` gave so many readable and writable bytes, to nobody else.
            let memory = unsafe { std::slice::from_raw_parts_mut(first, length) };
            assert!(memory.iter().all(|byte| *byte == 0));
            memory.fill(7);
            // SAFETY: made above; the slice is not used any more.
            unsafe { unmap(address, bytes) }.unwrap();
        }
        map(u64::MAX).unwrap_err();
    }

    /// A system of pages of 64 KiB unmaps nothing that begins between two of them.
    #[test]
    fn large_memory_on_a_system_of_other_pages_is_cut_at_pages() {
        for page in [4 << 10, 16 << 10, 64 << 10] {
            for bytes in [1, 4097, 2 << 20, (2 << 20) + 1, (40 << 20) + 5000] {
                for start in [0, page, 7 * page, LARGE - page, LARGE] {
                    let place = Place::new(bytes, page).unwrap();
                    let (first, spare) = place.of(start);
                    let ends = [first, place.length, place.mapped].into_iter();
                    let ends: Vec<_> = ends.chain(spare.iter().flat_map(|(from, to)| [*from, *to])).collect();
                    assert!(ends.iter().all(|end| end.is_multiple_of(page)), "{page}, {bytes}: {ends:?}");
                    assert!(first.is_multiple_of(place.align) && first >= start, "{page}, {bytes}: {ends:?}");
                    let mapped: usize = spare.iter().map(|(from, to)| to - from).sum();
                    assert_eq!(mapped + place.length, place.mapped, "{page}, {bytes}: {ends:?}");
                    assert!(place.length as u64 >= bytes);
                }
            }
        }
    }
}
