use std::ops::{Index, IndexMut};

/// No block.
pub(crate) const NONE: u32 = u32::MAX;

/// The owner of memory that no pending work uses: any stream may have it.
pub(crate) const NOBODY: u16 = 0;

/// Which of the two ranges of addresses: crumbs that live long are kept from pinning the pages of big blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Heap {
    /// Requests up to [`SMALL_BYTES_MAX`].
    Small,
    /// The others.
    Large,
}

/// The largest request of the small heap.
pub(crate) const SMALL_BYTES_MAX: u64 = 1 << 20;

impl Heap {
    pub(crate) const ALL: [Self; 2] = [Self::Small, Self::Large];

    pub(crate) const fn of(bytes: u64) -> Self {
        if bytes <= SMALL_BYTES_MAX { Self::Small } else { Self::Large }
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// What a range of addresses is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    /// A record that stands for nothing.
    Vacant,
    /// Addresses without memory: whole pages.
    Bare,
    /// Memory that can be handed out, under the owner's order.
    Free,
    /// Given back a moment ago, and not yet among the free ones: see [`Kept`](super::kept::Kept).
    Kept,
    /// In a [`Magazine`](super::magazine::Magazine), which knows whether it is handed out.
    Lent,
    /// Pages come or go: one thread is at it, without the lock.
    Moving,
    /// Handed out.
    Used,
    /// Given back, but other streams may still use it.
    Pending,
}

/// A range of addresses. Ranges of a region form a chain without gaps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    /// From the region's start, in bytes.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    /// When it was given back last: see [`Core::sequence`](super::core::Core).
    pub(crate) stamp: u64,
    /// When it was handed out last: unique in the life of an allocator, so no stale handle fits.
    pub(crate) generation: u64,
    pub(crate) prev: u32,
    pub(crate) next: u32,
    pub(crate) bin_prev: u32,
    pub(crate) bin_next: u32,
    /// Which list of other streams' uses, or [`NONE`].
    pub(crate) uses: u32,
    /// Bytes beyond the request.
    pub(crate) slack: u32,
    pub(crate) tag: u16,
    /// The stream that orders it, or [`NOBODY`].
    pub(crate) owner: u16,
    pub(crate) region: u16,
    pub(crate) state: State,
    pub(crate) heap: Heap,
}

// One cache line.
const _: () = assert!(size_of::<Block>() == 64);

impl Block {
    pub(crate) const fn new(heap: Heap, region: u16, offset: u64, bytes: u64, state: State) -> Self {
        Self {
            offset,
            bytes,
            stamp: 0,
            generation: 0,
            prev: NONE,
            next: NONE,
            bin_prev: NONE,
            bin_next: NONE,
            uses: NONE,
            slack: 0,
            tag: 0,
            owner: NOBODY,
            region,
            state,
            heap,
        }
    }

    pub(crate) const fn end(&self) -> u64 {
        self.offset + self.bytes
    }

    pub(crate) const fn requested(&self) -> u64 {
        self.bytes - self.slack as u64
    }
}

/// Block records by number; a number is used again after `remove`.
#[derive(Debug, Default)]
pub(crate) struct Slab {
    blocks: Vec<Block>,
    /// First vacant record; they are chained by `next`.
    vacant: Option<u32>,
}

impl Slab {
    #[inline]
    pub(crate) fn insert(&mut self, block: Block) -> u32 {
        let Some(index) = self.vacant else {
            let index = u32::try_from(self.blocks.len()).unwrap_or(NONE);
            assert!(index != NONE, "more than {NONE} blocks");
            self.blocks.push(block);
            return index;
        };
        let slot = &mut self[index];
        let next = slot.next;
        *slot = block;
        self.vacant = (next != NONE).then_some(next);
        index
    }

    #[inline]
    pub(crate) fn remove(&mut self, index: u32) {
        let next = self.vacant.unwrap_or(NONE);
        let block = &mut self[index];
        block.state = State::Vacant;
        block.next = next;
        self.vacant = Some(index);
    }

    /// The record, if there was ever one of this number.
    pub(crate) fn get(&self, index: u32) -> Option<&Block> {
        self.blocks.get(index as usize)
    }

    /// Every record that stands for something.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Block)> {
        (0..).zip(&self.blocks).filter(|(_, block)| block.state != State::Vacant)
    }
}

impl Index<u32> for Slab {
    type Output = Block;

    fn index(&self, index: u32) -> &Block {
        &self.blocks[index as usize]
    }
}

impl IndexMut<u32> for Slab {
    fn index_mut(&mut self, index: u32) -> &mut Block {
        &mut self.blocks[index as usize]
    }
}
