//! Device memory: chunks are pieces of one sparse file, shown at reserved addresses.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::abi::{ILLEGAL_ADDRESS, INVALID_VALUE, OPERATING_SYSTEM, OUT_OF_MEMORY};
use crate::driver::Result;
use crate::system;

/// The smallest piece, as on GPUs.
pub(crate) const PAGE: u64 = 2 << 20;

/// What fresh memory holds: NaN in every float type.
const FRESH: u8 = 0xff;

/// Larger chunks start as zeros, which the system gives for nothing.
const FRESH_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug)]
pub(crate) struct Memory {
    file: Option<OwnedFd>,
    capacity: u64,
    used: u64,
    next_offset: u64,
    next_handle: u64,
    chunks: BTreeMap<u64, Chunk>,
    reservations: BTreeMap<u64, u64>,
    maps: BTreeMap<u64, Map>,
    /// Those maps that were made in one piece.
    allocations: BTreeMap<u64, u64>,
    /// Page-locked host memory.
    pinned: BTreeMap<u64, Box<[u8]>>,
    /// Other memory of the process that was page-locked.
    registered: BTreeMap<u64, Registered>,
}

#[derive(Clone, Copy, Debug)]
struct Chunk {
    offset: u64,
    bytes: u64,
    maps: u64,
    is_released: bool,
    is_fresh: bool,
}

/// Memory of the process that was page-locked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registered {
    pub(crate) bytes: u64,
    /// Whether it has a device pointer.
    pub(crate) is_mapped: bool,
}

#[derive(Clone, Copy, Debug)]
struct Map {
    bytes: u64,
    chunk: u64,
    is_open: bool,
}

impl Memory {
    pub(crate) fn new(capacity: u64) -> Self {
        Self {
            file: system::sparse_file(1 << 46),
            capacity,
            used: 0,
            next_offset: 0,
            next_handle: 0x5000,
            chunks: BTreeMap::new(),
            reservations: BTreeMap::new(),
            maps: BTreeMap::new(),
            allocations: BTreeMap::new(),
            pinned: BTreeMap::new(),
            registered: BTreeMap::new(),
        }
    }

    pub(crate) const fn used(&self) -> u64 {
        self.used
    }

    pub(crate) fn left(&self) -> u64 {
        (self.chunks.len()
            + self.reservations.len()
            + self.maps.len()
            + self.pinned.len()
            + self.registered.len()) as u64
    }

    pub(crate) fn reserve(&mut self, bytes: u64, align: u64) -> Result<u64> {
        if bytes == 0 || !bytes.is_multiple_of(PAGE) || !(align == 0 || align.is_power_of_two()) {
            return Err(INVALID_VALUE);
        }
        let align = align.max(PAGE);
        let address = system::reserve(size(bytes)?, size(align)?).ok_or(OUT_OF_MEMORY)? as u64;
        self.reservations.insert(address, bytes);
        Ok(address)
    }

    pub(crate) fn unreserve(&mut self, address: u64, bytes: u64) -> Result {
        let is_whole = self.reservations.get(&address) == Some(&bytes);
        if !is_whole || self.maps.range(address..address + bytes).next().is_some() {
            return Err(INVALID_VALUE);
        }
        self.reservations.remove(&address);
        system::release(size(address)?, size(bytes)?);
        Ok(())
    }

    pub(crate) fn create(&mut self, bytes: u64, overhead: u64) -> Result<u64> {
        if bytes == 0 || !bytes.is_multiple_of(PAGE) {
            return Err(INVALID_VALUE);
        }
        if self.used + bytes + overhead > self.capacity {
            return Err(OUT_OF_MEMORY);
        }
        self.used += bytes;
        self.next_handle += 16;
        let chunk = Chunk { offset: self.next_offset, bytes, maps: 0, is_released: false, is_fresh: true };
        self.next_offset += bytes;
        self.chunks.insert(self.next_handle, chunk);
        Ok(self.next_handle)
    }

    pub(crate) fn release(&mut self, handle: u64) -> Result {
        let chunk = self.chunks.get_mut(&handle).filter(|chunk| !chunk.is_released).ok_or(INVALID_VALUE)?;
        chunk.is_released = true;
        self.forget(handle);
        Ok(())
    }

    pub(crate) fn map(&mut self, address: u64, bytes: u64, offset: u64, handle: u64) -> Result {
        let chunk = self.chunks.get_mut(&handle).filter(|chunk| !chunk.is_released).ok_or(INVALID_VALUE)?;
        let reserved = self.reservations.range(..=address).next_back();
        let is_inside = reserved.is_some_and(|(start, length)| address + bytes <= start + length);
        let end = address + bytes;
        let is_free =
            self.maps.range(..end).next_back().is_none_or(|(start, map)| start + map.bytes <= address);
        if offset != 0 || bytes != chunk.bytes || !address.is_multiple_of(PAGE) || !is_inside || !is_free {
            return Err(INVALID_VALUE);
        }
        let file = self.file.as_ref().ok_or(OPERATING_SYSTEM)?.as_raw_fd();
        if !system::show(file, chunk.offset, size(address)?, size(bytes)?) {
            return Err(OPERATING_SYSTEM);
        }
        chunk.maps += 1;
        self.maps.insert(address, Map { bytes, chunk: handle, is_open: false });
        Ok(())
    }

    pub(crate) fn set_access(&mut self, address: u64, bytes: u64) -> Result {
        let starts = self.whole_maps(address, bytes)?;
        if !system::open(size(address)?, size(bytes)?) {
            return Err(OPERATING_SYSTEM);
        }
        for start in starts {
            let Some(map) = self.maps.get_mut(&start) else { continue };
            map.is_open = true;
            let (bytes, chunk) = (map.bytes, self.chunks.get_mut(&map.chunk));
            // What large chunks hold is not worth the time.
            if let Some(chunk) = chunk.filter(|chunk| chunk.is_fresh && bytes <= FRESH_BYTES_MAX) {
                chunk.is_fresh = false;
                // SAFETY: mapped and opened just now, and nobody has used it yet.
                unsafe { pointer(start).write_bytes(FRESH, size(bytes)?) };
            }
        }
        Ok(())
    }

    /// One map at a time, as the documentation asks.
    pub(crate) fn unmap(&mut self, address: u64, bytes: u64) -> Result {
        let map = self.maps.get(&address).copied().filter(|map| map.bytes == bytes).ok_or(INVALID_VALUE)?;
        if !system::hide(size(address)?, size(bytes)?) {
            return Err(OPERATING_SYSTEM);
        }
        self.maps.remove(&address);
        if let Some(chunk) = self.chunks.get_mut(&map.chunk) {
            chunk.maps -= 1;
        }
        self.forget(map.chunk);
        Ok(())
    }

    /// Memory in one piece, ready for use; addresses and sizes of pages, as `cuMemAlloc` gives them for large sizes.
    pub(crate) fn allocate(&mut self, bytes: u64, overhead: u64) -> Result<u64> {
        let length = bytes.next_multiple_of(PAGE);
        let chunk = self.create(length, overhead)?;
        let address = self.reserve(length, 0)?;
        self.map(address, length, 0, chunk)?;
        self.set_access(address, length)?;
        self.release(chunk)?;
        self.allocations.insert(address, length);
        Ok(address)
    }

    pub(crate) fn free(&mut self, address: u64) -> Result {
        let length = self.allocations.remove(&address).ok_or(INVALID_VALUE)?;
        self.unmap(address, length)?;
        self.unreserve(address, length)
    }

    pub(crate) fn pin(&mut self, bytes: usize) -> Result<u64> {
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        let memory = vec![FRESH; bytes].into_boxed_slice();
        let address = memory.as_ptr().expose_provenance() as u64;
        self.pinned.insert(address, memory);
        Ok(address)
    }

    pub(crate) fn unpin(&mut self, address: u64) -> Result {
        self.pinned.remove(&address).map(drop).ok_or(INVALID_VALUE)
    }

    /// Whether a word of page-locked memory is there, where it may be.
    pub(crate) fn check_word(&self, address: u64) -> Result {
        if !address.is_multiple_of(4) {
            return Err(INVALID_VALUE);
        }
        let before = self.pinned.range(..=address).next_back();
        let is_pinned = before.is_some_and(|(start, memory)| address + 4 <= start + memory.len() as u64);
        let before = self.registered.range(..=address).next_back();
        let is_registered =
            before.is_some_and(|(start, known)| known.is_mapped && address + 4 <= start + known.bytes);
        if is_pinned || is_registered { Ok(()) } else { self.check(address, 4) }
    }

    pub(crate) fn register(&mut self, address: u64, registered: Registered) -> Result {
        let bytes = registered.bytes;
        let before = self.registered.range(..address + bytes).next_back();
        if address == 0 || bytes == 0 || before.is_some_and(|(start, known)| start + known.bytes > address) {
            return Err(INVALID_VALUE);
        }
        self.registered.insert(address, registered);
        Ok(())
    }

    pub(crate) fn unregister(&mut self, address: u64) -> Result {
        self.registered.remove(&address).map(drop).ok_or(INVALID_VALUE)
    }

    /// Refuses a range that is not wholly mapped with access.
    pub(crate) fn check(&self, address: u64, bytes: u64) -> Result {
        let mut next = address;
        let before = self.maps.range(..=address).next_back().map(|(start, _)| *start).unwrap_or(address);
        for (start, map) in self.maps.range(before..address.saturating_add(bytes).max(before)) {
            if *start <= next && next < start + map.bytes && map.is_open {
                next = start + map.bytes;
            }
        }
        if next >= address.saturating_add(bytes) { Ok(()) } else { Err(ILLEGAL_ADDRESS) }
    }

    /// Everything that a kernel may touch, neighbours joined.
    #[cfg(feature = "emu")]
    pub(crate) fn regions(&self) -> Vec<(u64, u64)> {
        let mut regions: Vec<(u64, u64)> = Vec::new();
        for (start, map) in self.maps.iter().filter(|(_, map)| map.is_open) {
            match regions.last_mut() {
                Some((first, bytes)) if *first + *bytes == *start => *bytes += map.bytes,
                _ => regions.push((*start, map.bytes)),
            }
        }
        regions
    }

    fn whole_maps(&self, address: u64, bytes: u64) -> Result<Vec<u64>> {
        let (mut starts, mut next) = (Vec::new(), address);
        for (start, map) in self.maps.range(address..address + bytes) {
            if *start != next {
                break;
            }
            starts.push(*start);
            next = start + map.bytes;
        }
        if bytes > 0 && next == address + bytes { Ok(starts) } else { Err(INVALID_VALUE) }
    }

    /// Frees a chunk that nobody names and nobody maps.
    fn forget(&mut self, handle: u64) {
        let Some(chunk) = self.chunks.get(&handle).filter(|chunk| chunk.is_released && chunk.maps == 0)
        else {
            return;
        };
        self.used -= chunk.bytes;
        if let Some(file) = &self.file {
            system::forget(file.as_raw_fd(), chunk.offset, chunk.bytes);
        }
        self.chunks.remove(&handle);
    }
}

/// A pointer of this process, which device addresses are here.
pub(crate) fn pointer(address: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0))
}

fn size(bytes: u64) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| INVALID_VALUE)
}
