//! Page-locked memory of the host that holds what is streamed more than once.

use lighterage_device::{Address, Backend, Device, Error as DeviceError, Grant, Ledger, Pinned, Purpose};

use crate::Result;
use crate::in_place;
use crate::plan::Tape;

/// The longest block of the arena, and the longest window of a file that is page-locked at once, in bytes: some drivers refuse more, and pinning takes its time, 1 to 2.4 GB/s.
/// Tests have some of each in little memory; one test has blocks as they are (`tests/blocks.rs`).
pub(crate) const BLOCK_BYTES_MAX: u64 = if cfg!(test) { 64 << 10 } else { 256 << 20 };

/// Blocks of memory, and which page of the tape lies where in them: charged when the pages get their places, page-locked block by block when somebody fills them.
#[derive(Debug)]
pub(crate) struct Arena<B: Backend> {
    /// Those for the plan that the feed was made for, and more after pages were given back that were resident.
    blocks: Vec<Block<B>>,
    /// How many of them are for that plan.
    planned_blocks: usize,
    /// By page.
    places: Vec<Option<Place>>,
}

/// A part of the arena: charged at once, page-locked when it is first filled.
#[derive(Debug)]
enum Block<B: Backend> {
    Granted(Grant),
    Pinned(Pinned<B>),
    /// Given back, or refused.
    Gone,
}

/// Where a page's bytes lie page-locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) block: usize,
    pub(crate) offset: u64,
}

impl<B: Backend> Arena<B> {
    /// Nothing, for so many pages.
    pub(crate) fn new(pages: usize) -> Self {
        Self { blocks: Vec::new(), planned_blocks: 0, places: vec![None; pages] }
    }

    /// Of a page.
    pub(crate) fn place(&self, page: u32) -> Option<Place> {
        self.places[page as usize]
    }

    /// What there is now is for the plan that the feed was made for: it stays.
    pub(crate) const fn settle(&mut self) {
        self.planned_blocks = self.blocks.len();
    }

    /// Gives everything back.
    pub(crate) fn clear(&mut self) {
        self.blocks.clear();
        self.places.fill(None);
    }

    /// Gives those later blocks back in which no page lies that is kept, by page.
    pub(crate) fn release_unused(&mut self, is_kept: &[bool]) {
        for block in self.planned_blocks..self.blocks.len() {
            let is_here = |place: &Option<Place>| place.is_some_and(|place| place.block == block);
            if !self.places.iter().zip(is_kept).any(|(place, kept)| *kept && is_here(place)) {
                self.release(block);
            }
        }
    }

    fn release(&mut self, block: usize) {
        self.blocks[block] = Block::Gone;
        let is_here = |place: &Option<Place>| place.is_some_and(|place| place.block == block);
        self.places.iter_mut().filter(|place| is_here(place)).for_each(|place| *place = None);
    }

    /// Gives these pages places in new blocks, of at most `room` bytes: spread along the tape, so that those that go through stages are. All of it is charged now, or
    /// nothing is kept; it is page-locked when it is filled. Returns the pages that have a place now.
    pub(crate) fn keep(
        &mut self,
        ledger: &Ledger,
        tape: &Tape,
        missing: &[u32],
        room: u64,
    ) -> Result<Vec<u32>, DeviceError> {
        let bytes = |page: u32| tape.bytes_of(&(page..page + 1));
        let wanted: u64 = missing.iter().map(|page| bytes(*page)).sum();
        let (mut seen, mut given, mut chosen) = (0_u64, 0, Vec::new());
        let mut lengths: Vec<u64> = Vec::new();
        for page in missing.iter().copied() {
            seen += bytes(page);
            let due = u128::from(room.min(wanted)) * u128::from(seen) / u128::from(wanted.max(1));
            if u128::from(given + bytes(page)) > due {
                continue;
            }
            if lengths.last().is_none_or(|length| length + bytes(page) > BLOCK_BYTES_MAX) {
                lengths.push(0);
            }
            let block = self.blocks.len() + lengths.len() - 1;
            let offset = lengths.last().copied().unwrap_or(0);
            chosen.push((page, Place { block, offset }));
            given += bytes(page);
            lengths.last_mut().into_iter().for_each(|length| *length += bytes(page));
        }
        let grants = lengths.into_iter().map(|bytes| ledger.grant(Purpose::Pinned, bytes));
        let grants = grants.collect::<Result<Vec<_>, _>>()?;
        self.blocks.extend(grants.into_iter().map(Block::Granted));
        for (page, place) in &chosen {
            self.places[*page as usize] = Some(*place);
        }
        Ok(chosen.into_iter().map(|(page, _)| page).collect())
    }

    /// Whether a block is still to be page-locked.
    pub(crate) fn is_open(&self, block: usize) -> bool {
        matches!(self.blocks[block], Block::Granted(_))
    }

    /// Page-locks a block that is open. False if that is refused: its pages have no place then, which they also have not after an error.
    pub(crate) fn pin(&mut self, device: &Device<B>, block: usize) -> Result<bool> {
        let Block::Granted(grant) = std::mem::replace(&mut self.blocks[block], Block::Gone) else {
            return Ok(true);
        };
        match device.pin_granted(grant) {
            Ok(pinned) => {
                self.blocks[block] = Block::Pinned(pinned);
                Ok(true)
            }
            Err(error) => {
                self.release(block);
                if in_place::is_refusal(&error) { Ok(false) } else { Err(error.into()) }
            }
        }
    }

    /// Where a place is, in memory that is page-locked already.
    ///
    /// # Panics
    /// If its block is not.
    pub(crate) fn address(&self, Place { block, offset }: Place) -> Address {
        match &self.blocks[block] {
            Block::Pinned(memory) => memory.address().offset(offset),
            Block::Granted(_) | Block::Gone => unreachable!("block {block} was page-locked before"),
        }
    }

    /// The memory of a block that is page-locked.
    pub(crate) fn memory(&mut self, block: usize) -> Option<&mut Pinned<B>> {
        match &mut self.blocks[block] {
            Block::Pinned(memory) => Some(memory),
            Block::Granted(_) | Block::Gone => None,
        }
    }

    /// Bytes that are page-locked by now.
    pub(crate) fn locked_bytes(&self) -> u64 {
        let pinned = |block: &Block<B>| match block {
            Block::Pinned(pinned) => pinned.bytes(),
            Block::Granted(_) | Block::Gone => 0,
        };
        self.blocks.iter().map(pinned).sum()
    }
}
