use std::sync::{Mutex, MutexGuard, PoisonError};

use super::pages::{self, Pages};
use crate::space::{Extent, Space, Usage};
use crate::{Address, ChunkId, Error, Result};

/// The memory of a host device: the rules, and the operating system behind them.
///
/// It goes away with the last stream, not with the device, so that pending work still finds it.
#[derive(Debug)]
pub(super) struct Memory {
    space: Mutex<Space>,
    pages: Pages,
    page: u64,
    /// What fresh memory is filled with; none: it is zero, by the system's grace.
    fresh: Option<u8>,
}

impl Memory {
    pub(super) fn new(page: u64, capacity: u64, fresh: Option<u8>) -> Result<Self> {
        Ok(Self { space: Mutex::new(Space::new(page, capacity)), pages: Pages::new()?, page, fresh })
    }

    pub(super) fn reserve(&self, bytes: u64) -> Result<Address> {
        self.space().reserve(bytes, || pages::reserve(bytes, self.page))
    }

    /// # Safety
    /// - No pending work uses the range.
    pub(super) unsafe fn unreserve(&self, address: Address, bytes: u64) -> Result<()> {
        self.space().unreserve(address, bytes, || {
            // SAFETY: the books say that `reserve` made the range and nothing is mapped in it; nothing uses it, as promised.
            unsafe { pages::unreserve(address, bytes) }
        })
    }

    pub(super) fn create(&self, bytes: u64) -> Result<ChunkId> {
        self.space().create(bytes, |extent| self.fresh.map_or(Ok(()), |value| self.pages.fill(extent, value)))
    }

    pub(super) fn destroy(&self, chunk: ChunkId) -> Result<()> {
        let freed = self.space().destroy(chunk)?;
        self.free(freed)
    }

    /// # Safety
    /// - Nothing uses the range.
    pub(super) unsafe fn map(&self, address: Address, chunk: ChunkId, bytes: u64) -> Result<()> {
        self.space().map(address, chunk, bytes, |extent| {
            // SAFETY: the books say that the range lies in a reservation and nothing is mapped there.
            unsafe { self.pages.map(address, extent) }
        })
    }

    pub(super) fn set_access(&self, address: Address, bytes: u64) -> Result<()> {
        self.space().set_access(address, bytes, || {
            // SAFETY: the books say that the range consists of whole maps of one reservation.
            unsafe { pages::set_access(address, bytes) }
        })
    }

    /// # Safety
    /// - No pending work uses the range.
    pub(super) unsafe fn unmap(&self, address: Address, bytes: u64) -> Result<()> {
        let freed = self.space().unmap(address, bytes, || {
            // SAFETY: the books say that the range consists of whole maps of one reservation; nothing uses it, as promised.
            unsafe { pages::unmap(address, bytes) }
        })?;
        self.free(freed)
    }

    pub(super) fn pin(&self, bytes: u64) -> Result<Address> {
        self.space().pin(bytes, || pages::pin(pinned_length(bytes)))
    }

    /// # Safety
    /// - No pending work uses the range.
    pub(super) unsafe fn unpin(&self, address: Address, bytes: u64) -> Result<()> {
        self.space().unpin(address, bytes, || {
            // SAFETY: the books say that `pin` made the range; nothing uses it, as promised.
            unsafe { pages::unreserve(address, pinned_length(bytes)) }
        })
    }

    /// In the books only: the memory that copies are made from is the one that programs use.
    pub(super) fn register(&self, first: Address, bytes: u64) -> Result<()> {
        self.space().register(first, bytes, || Ok(()))
    }

    pub(super) fn unregister(&self, first: Address, bytes: u64) -> Result<()> {
        self.space().unregister(first, bytes, || Ok(()))
    }

    /// Refuses a range that is not mapped with access.
    pub(super) fn accessible(&self, call: &'static str, address: Address, bytes: u64) -> Result<()> {
        self.space().accessible(call, address, bytes)
    }

    /// Every range that can be accessed, address and bytes, as few as they can be told in.
    pub(super) fn accessible_ranges(&self) -> Vec<(u64, u64)> {
        self.space().accessible_ranges()
    }

    /// The physical bytes behind a range.
    pub(super) fn extents(&self, address: Address, bytes: u64) -> Vec<Extent> {
        self.space().extents(address, bytes)
    }

    /// What `create` would answer without room.
    pub(super) fn out_of_memory(&self, bytes: u64) -> Error {
        self.space().out_of_memory(bytes)
    }

    /// What exists now.
    pub(super) fn usage(&self) -> Usage {
        self.space().usage()
    }

    fn free(&self, extents: impl IntoIterator<Item = Extent>) -> Result<()> {
        extents.into_iter().try_for_each(|extent| self.pages.free(&extent))
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        // The books change after the last fallible step of a call, so a panic elsewhere leaves them whole.
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let space = self.space();
        let pins = space.pins().map(|(address, bytes)| (address, pinned_length(bytes)));
        for (address, bytes) in space.reservations().chain(pins) {
            // SAFETY: made by `reserve` or `pin`; streams own this memory too, so no work is pending when it goes. An error
            // would mean a leak of addresses, and there is nobody left to hear of it.
            let _ = unsafe { pages::unreserve(address, bytes) };
        }
    }
}

/// The system maps no empty ranges.
const fn pinned_length(bytes: u64) -> u64 {
    if bytes == 0 { 1 } else { bytes }
}
