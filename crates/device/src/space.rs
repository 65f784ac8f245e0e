//! The rules of chunks, reservations and maps, as arithmetic: every backend asks here, so they refuse alike.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::{Address, ChunkId, Error, Result};

/// Where a chunk lies in physical memory: byte offsets, which aliases share.
pub(crate) type Extent = Range<u64>;

/// What exists on a device at a moment, for tests of leaks: all zero when everything was given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of physical memory.
    pub bytes: u64,
    /// Chunks, destroyed ones that are still mapped included.
    pub chunks: usize,
    /// Maps.
    pub maps: usize,
    /// Reservations.
    pub reservations: usize,
    /// Pieces of pinned host memory.
    pub pins: usize,
    /// Ranges of host memory that are registered where they lie.
    pub registered: usize,
}

/// What exists: chunks of physical memory, reservations of addresses, and maps of the first into the second.
///
/// Calls that need the operating system take it as a closure: it runs after the checks, and the books change only if it succeeds.
#[derive(Debug)]
pub(crate) struct Space {
    page: u64,
    capacity: u64,
    used: u64,
    next_chunk: u64,
    /// Physical offsets only grow, so an extent is never reused.
    next_offset: u64,
    chunks: BTreeMap<ChunkId, Body>,
    /// Address to length.
    reservations: BTreeMap<u64, u64>,
    /// Address to map.
    maps: BTreeMap<u64, Map>,
    /// Address of pinned host memory to length.
    pins: BTreeMap<u64, u64>,
    /// Address of registered host memory to length.
    registered: BTreeMap<u64, u64>,
}

#[derive(Debug)]
struct Body {
    extent: Extent,
    maps: usize,
    destroyed: bool,
}

#[derive(Debug)]
struct Map {
    bytes: u64,
    chunk: ChunkId,
    /// Physical offset of its first byte.
    offset: u64,
    accessible: bool,
}

impl Space {
    pub(crate) fn new(page: u64, capacity: u64) -> Self {
        Self {
            page,
            capacity,
            used: 0,
            next_chunk: 0,
            next_offset: 0,
            chunks: BTreeMap::new(),
            reservations: BTreeMap::new(),
            maps: BTreeMap::new(),
            pins: BTreeMap::new(),
            registered: BTreeMap::new(),
        }
    }

    /// What `create` answers when there is no room.
    pub(crate) const fn out_of_memory(&self, requested: u64) -> Error {
        Error::OutOfMemory { requested, capacity: self.capacity, used: self.used }
    }

    pub(crate) fn create(&mut self, bytes: u64, fill: impl FnOnce(&Extent) -> Result<()>) -> Result<ChunkId> {
        self.whole_pages("create", Address(0), bytes)?;
        if bytes > self.capacity - self.used {
            return Err(self.out_of_memory(bytes));
        }
        let Some(end) = self.next_offset.checked_add(bytes).filter(|end| *end <= OFFSETS) else {
            return Err(self.out_of_memory(bytes));
        };
        let extent = self.next_offset..end;
        fill(&extent)?;
        let id = ChunkId(self.next_chunk);
        self.next_chunk += 1;
        self.next_offset = end;
        self.used += bytes;
        self.chunks.insert(id, Body { extent, maps: 0, destroyed: false });
        Ok(id)
    }

    /// Destroys a chunk; its extent, to be freed, unless it is still mapped.
    pub(crate) fn destroy(&mut self, chunk: ChunkId) -> Result<Option<Extent>> {
        match self.chunks.get_mut(&chunk) {
            Some(body) if !body.destroyed => body.destroyed = true,
            _ => return Err(range_error("destroy", Address(0), 0, "no such chunk")),
        }
        Ok(self.release(chunk))
    }

    pub(crate) fn reserve(&mut self, bytes: u64, take: impl FnOnce() -> Result<Address>) -> Result<Address> {
        self.whole_pages("reserve", Address(0), bytes)?;
        let address = take()?;
        self.reservations.insert(address.0, bytes);
        Ok(address)
    }

    pub(crate) fn unreserve(
        &mut self,
        address: Address,
        bytes: u64,
        give: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        if self.reservations.get(&address.0) != Some(&bytes) {
            return Err(range_error("unreserve", address, bytes, "not a reservation"));
        }
        if self.maps.range(address.0..address.0 + bytes).next().is_some() {
            return Err(range_error("unreserve", address, bytes, "still mapped"));
        }
        give()?;
        self.reservations.remove(&address.0);
        Ok(())
    }

    pub(crate) fn map(
        &mut self,
        address: Address,
        chunk: ChunkId,
        bytes: u64,
        install: impl FnOnce(&Extent) -> Result<()>,
    ) -> Result<()> {
        self.whole_pages("map", address, bytes)?;
        self.reserved("map", address, bytes)?;
        let body = self.chunks.get(&chunk).filter(|body| !body.destroyed);
        let Some(body) = body else {
            return Err(range_error("map", address, bytes, "no such chunk"));
        };
        if body.extent.end - body.extent.start != bytes {
            return Err(range_error("map", address, bytes, "not the size of the chunk"));
        }
        if self.maps_meeting(address, bytes).next().is_some() {
            return Err(range_error("map", address, bytes, "already mapped"));
        }
        install(&body.extent)?;
        let offset = body.extent.start;
        self.maps.insert(address.0, Map { bytes, chunk, offset, accessible: false });
        if let Some(body) = self.chunks.get_mut(&chunk) {
            body.maps += 1;
        }
        Ok(())
    }

    pub(crate) fn set_access(
        &mut self,
        address: Address,
        bytes: u64,
        open: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.whole_maps("set_access", address, bytes)?;
        open()?;
        for (_, map) in self.maps.range_mut(address.0..address.0 + bytes) {
            map.accessible = true;
        }
        Ok(())
    }

    /// How many maps begin in a range.
    pub(crate) fn maps_in(&self, address: Address, bytes: u64) -> u64 {
        self.maps.range(address.0..address.0.saturating_add(bytes)).count() as u64
    }

    /// Unmaps whole maps; the extents of destroyed chunks that were mapped nowhere else, to be freed.
    pub(crate) fn unmap(
        &mut self,
        address: Address,
        bytes: u64,
        remove: impl FnOnce() -> Result<()>,
    ) -> Result<Vec<Extent>> {
        self.whole_maps("unmap", address, bytes)?;
        remove()?;
        let starts: Vec<u64> =
            self.maps.range(address.0..address.0 + bytes).map(|(start, _)| *start).collect();
        let mut freed = Vec::new();
        for start in starts {
            let Some(map) = self.maps.remove(&start) else { continue };
            if let Some(body) = self.chunks.get_mut(&map.chunk) {
                body.maps -= 1;
            }
            freed.extend(self.release(map.chunk));
        }
        Ok(freed)
    }

    pub(crate) fn pin(&mut self, bytes: u64, take: impl FnOnce() -> Result<Address>) -> Result<Address> {
        let address = take()?;
        self.pins.insert(address.0, bytes);
        Ok(address)
    }

    pub(crate) fn unpin(
        &mut self,
        address: Address,
        bytes: u64,
        give: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        if self.pins.get(&address.0) != Some(&bytes) {
            return Err(range_error("unpin", address, bytes, "not pinned memory"));
        }
        give()?;
        self.pins.remove(&address.0);
        Ok(())
    }

    pub(crate) fn register(
        &mut self,
        first: Address,
        bytes: u64,
        take: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let refuse = |reason| Err(range_error("register", first, bytes, reason));
        let Some(end) = first.0.checked_add(bytes).filter(|_| bytes > 0) else {
            return refuse("not a range of memory");
        };
        let before = self.registered.range(..end).next_back();
        if before.is_some_and(|(start, length)| start + length > first.0) {
            return refuse("already registered");
        }
        take()?;
        self.registered.insert(first.0, bytes);
        Ok(())
    }

    pub(crate) fn unregister(
        &mut self,
        first: Address,
        bytes: u64,
        give: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        if self.registered.get(&first.0) != Some(&bytes) {
            return Err(range_error("unregister", first, bytes, "not registered"));
        }
        give()?;
        self.registered.remove(&first.0);
        Ok(())
    }

    /// Refuses a range that a copy cannot touch: not wholly mapped, or without access.
    pub(crate) fn accessible(&self, call: &'static str, address: Address, bytes: u64) -> Result<()> {
        let refuse = |reason| Err(range_error(call, address, bytes, reason));
        let Some(end) = address.0.checked_add(bytes) else {
            return refuse("past the end of the address space");
        };
        let mut next = address.0;
        for (start, map) in self.maps_meeting(address, bytes) {
            if start > next {
                break;
            }
            if !map.accessible {
                return refuse("mapped, but without access");
            }
            next = start + map.bytes;
        }
        if next < end { refuse("not mapped") } else { Ok(()) }
    }

    /// Every range that can be accessed, address and bytes, in order; neighbours are one range.
    pub(crate) fn accessible_ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for (start, map) in self.maps.iter().filter(|(_, map)| map.accessible) {
            match ranges.last_mut() {
                Some((address, bytes)) if *address + *bytes == *start => *bytes += map.bytes,
                _ => ranges.push((*start, map.bytes)),
            }
        }
        ranges
    }

    /// The physical bytes behind a mapped range, in the order of the addresses.
    pub(crate) fn extents(&self, address: Address, bytes: u64) -> Vec<Extent> {
        let end = address.0.saturating_add(bytes);
        self.maps_meeting(address, bytes)
            .map(|(start, map)| {
                let (from, to) = (start.max(address.0), (start + map.bytes).min(end));
                map.offset + (from - start)..map.offset + (to - start)
            })
            .collect()
    }

    /// The maps that a range of whole maps consists of.
    pub(crate) fn whole_maps_of(
        &self,
        call: &'static str,
        address: Address,
        bytes: u64,
    ) -> Result<Vec<(Address, u64)>> {
        self.whole_maps(call, address, bytes)?;
        let maps = self.maps.range(address.0..address.0 + bytes);
        Ok(maps.map(|(start, map)| (Address(*start), map.bytes)).collect())
    }

    /// Every map, for a backend that goes away.
    pub(crate) fn maps(&self) -> impl Iterator<Item = (Address, u64)> {
        self.maps.iter().map(|(address, map)| (Address(*address), map.bytes))
    }

    /// Every reservation, for a backend that goes away.
    pub(crate) fn reservations(&self) -> impl Iterator<Item = (Address, u64)> {
        self.reservations.iter().map(|(address, bytes)| (Address(*address), *bytes))
    }

    /// Every piece of host memory that is page-locked.
    pub(crate) fn locked(&self) -> impl Iterator<Item = (Address, u64)> {
        self.pins.iter().chain(&self.registered).map(|(address, bytes)| (Address(*address), *bytes))
    }

    /// Every piece of pinned memory, for a backend that goes away.
    pub(crate) fn pins(&self) -> impl Iterator<Item = (Address, u64)> {
        self.pins.iter().map(|(address, bytes)| (Address(*address), *bytes))
    }

    /// Every registered range, for a backend that goes away.
    pub(crate) fn registrations(&self) -> impl Iterator<Item = (Address, u64)> {
        self.registered.iter().map(|(first, bytes)| (Address(*first), *bytes))
    }

    /// What exists now.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            bytes: self.used,
            chunks: self.chunks.len(),
            maps: self.maps.len(),
            reservations: self.reservations.len(),
            pins: self.pins.len(),
            registered: self.registered.len(),
        }
    }

    fn release(&mut self, chunk: ChunkId) -> Option<Extent> {
        let gone = self.chunks.get(&chunk).is_some_and(|body| body.destroyed && body.maps == 0);
        let body = if gone { self.chunks.remove(&chunk) } else { None }?;
        self.used -= body.extent.end - body.extent.start;
        Some(body.extent)
    }

    fn whole_pages(&self, call: &'static str, address: Address, bytes: u64) -> Result<()> {
        if bytes > 0 && bytes.is_multiple_of(self.page) && address.0.is_multiple_of(self.page) {
            return Ok(());
        }
        Err(range_error(call, address, bytes, "not a multiple of the page"))
    }

    fn reserved(&self, call: &'static str, address: Address, bytes: u64) -> Result<()> {
        let inside = self.reservations.range(..=address.0).next_back().is_some_and(|(start, length)| {
            address.0.checked_add(bytes).is_some_and(|end| end <= start + length)
        });
        if inside { Ok(()) } else { Err(range_error(call, address, bytes, "outside of a reservation")) }
    }

    fn whole_maps(&self, call: &'static str, address: Address, bytes: u64) -> Result<()> {
        self.whole_pages(call, address, bytes)?;
        self.reserved(call, address, bytes)?;
        let mut next = address.0;
        for (start, map) in self.maps.range(address.0..address.0 + bytes) {
            if *start != next {
                break;
            }
            next = start + map.bytes;
        }
        if next == address.0 + bytes {
            return Ok(());
        }
        Err(range_error(call, address, bytes, "not a range of whole maps"))
    }

    /// The maps that share a byte with the range, by address.
    fn maps_meeting(&self, address: Address, bytes: u64) -> impl Iterator<Item = (u64, &Map)> {
        let end = address.0.saturating_add(bytes);
        let before = self.maps.range(..address.0).next_back();
        let before = before.filter(move |(start, map)| *start + map.bytes > address.0 && bytes > 0);
        before.into_iter().chain(self.maps.range(address.0..end)).map(|(start, map)| (*start, map))
    }
}

/// Physical offsets end here: a file cannot be longer than an `i64` says.
pub(crate) const OFFSETS: u64 = 1 << 62;

fn range_error(call: &'static str, address: Address, bytes: u64, reason: &'static str) -> Error {
    Error::Range { call, address, bytes, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 16;

    fn mapped(chunks: &[u64], at: &[(u64, u64)]) -> Space {
        let mut space = Space::new(PAGE, 1 << 20);
        let chunks: Vec<ChunkId> =
            chunks.iter().map(|bytes| space.create(*bytes, |_| Ok(())).unwrap()).collect();
        space.reserve(64 * PAGE, || Ok(Address(1024))).unwrap();
        for (offset, chunk) in at {
            let id = chunks[usize::try_from(*chunk).unwrap()];
            let bytes = space.chunks[&id].extent.end - space.chunks[&id].extent.start;
            space.map(Address(1024 + offset), id, bytes, |_| Ok(())).unwrap();
        }
        space
    }

    #[test]
    fn extents_follow_the_maps() {
        // Chunks 0..16, 16..48, 48..64 of physical memory, the second mapped first, the first twice.
        let space = mapped(&[16, 32, 16], &[(0, 1), (32, 0), (48, 0), (64, 2)]);
        type Case<'a> = (u64, u64, &'a [(u64, u64)]);
        let cases: [Case<'_>; 6] = [
            (0, 32, &[(16, 48)]),
            (4, 8, &[(20, 28)]),
            (24, 16, &[(40, 48), (0, 8)]),
            (40, 16, &[(8, 16), (0, 8)]),
            (60, 100, &[(12, 16), (48, 64)]),
            (8, 0, &[]),
        ];
        for (offset, bytes, expected) in cases {
            let extents = space.extents(Address(1024 + offset), bytes);
            let ends: Vec<(u64, u64)> =
                extents.into_iter().map(|extent| (extent.start, extent.end)).collect();
            assert_eq!(ends, expected, "{bytes} bytes at {offset}");
        }
        assert!(space.extents(Address(0), 1024).is_empty());
        assert!(space.extents(Address(u64::MAX), 2).is_empty());
    }

    #[test]
    fn failed_system_call_changes_nothing() {
        let mut space = mapped(&[16, 16], &[(0, 0)]);
        let (before, at) = (format!("{space:?}"), Address(1024));
        let refuse = || Err(range_error("test", Address(0), 0, "refused"));
        space.create(16, |_| refuse()).unwrap_err();
        space.reserve(16, || refuse().map(|()| at)).unwrap_err();
        space.map(at.offset(32), ChunkId(1), 16, |_| refuse()).unwrap_err();
        space.set_access(at, 16, refuse).unwrap_err();
        space.unmap(at, 16, refuse).unwrap_err();
        space.pin(16, || refuse().map(|()| at)).unwrap_err();
        assert_eq!(format!("{space:?}"), before);
    }

    #[test]
    fn physical_offsets_run_out_with_an_error() {
        let mut space = Space::new(PAGE, u64::MAX);
        let chunk = space.create(OFFSETS, |_| Ok(())).unwrap();
        assert_eq!(space.destroy(chunk), Ok(Some(0..OFFSETS)));
        assert!(matches!(space.create(PAGE, |_| Ok(())), Err(Error::OutOfMemory { used: 0, .. })));
    }
}
