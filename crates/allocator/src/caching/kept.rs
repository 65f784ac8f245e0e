use super::block::NONE;
use crate::ALIGNMENT_BYTES;

/// Places for sizes of each owner: a word has a bit for each.
pub(super) const PLACES: usize = 64;

/// Small blocks that were given back a moment ago and are as they were: one for each of some sizes of each owner.
///
/// Programs ask again for the sizes that they gave back. Who does gets the block at once; it is neither joined with its neighbours nor cut off again: an
/// allocation and its free take half the time. A block makes room for the next one whose size falls on its place, and all of them are joined before
/// anything is missed.
///
/// Large blocks are joined at once. To keep them too scatters what stays: a fifth to two fifths more is reserved on the model traces, and up to one
/// per cent where only the last one is kept. Small ones cost less than 0.05 %.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// By owner.
    owners: Vec<Places>,
}

#[derive(Debug)]
struct Places {
    /// Which places held a block since the last time that all of them were emptied.
    marked: u64,
    /// For 0 bytes where there is none.
    blocks: [(u64, u32); PLACES],
}

impl Kept {
    pub(crate) fn add_owner(&mut self) {
        self.owners.push(Places { marked: 0, blocks: [(0, NONE); PLACES] });
    }

    /// Takes a block of exactly this size.
    #[inline]
    pub(crate) fn take(&mut self, owner: u16, bytes: u64) -> Option<u32> {
        let places = &mut self.owners[owner as usize];
        let (kept, block) = &mut places.blocks[place(bytes)];
        if *kept != bytes {
            return None;
        }
        *kept = 0;
        Some(*block)
    }

    /// Keeps a block; the one that was there before, if there was one.
    #[inline]
    pub(crate) fn put(&mut self, owner: u16, bytes: u64, block: u32) -> Option<u32> {
        let places = &mut self.owners[owner as usize];
        let place = place(bytes);
        let (before, displaced) = std::mem::replace(&mut places.blocks[place], (bytes, block));
        places.marked |= 1 << place;
        (before != 0).then_some(displaced)
    }

    /// Takes any block.
    pub(crate) fn pop(&mut self) -> Option<u32> {
        self.owners.iter_mut().find_map(Places::pop)
    }

    /// Every block with the owner and the size that it is kept for.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, u64, u32)> + '_ {
        self.owners.iter().enumerate().flat_map(|(owner, places)| {
            let filled = places.blocks.iter().filter(|(bytes, _)| *bytes != 0);
            filled.map(move |(bytes, block)| (owner, *bytes, *block))
        })
    }
}

impl Places {
    fn pop(&mut self) -> Option<u32> {
        while self.marked != 0 {
            let place = self.marked.trailing_zeros() as usize;
            self.marked &= self.marked - 1;
            let (bytes, block) = std::mem::replace(&mut self.blocks[place], (0, NONE));
            if bytes != 0 {
                return Some(block);
            }
        }
        None
    }
}

/// The place of a size, by Fibonacci hashing: sizes of a program differ little, or by powers of two.
#[inline]
pub(super) const fn place(bytes: u64) -> usize {
    let hash = (bytes / ALIGNMENT_BYTES).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> (u64::BITS - PLACES.ilog2())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_kept_for_its_owner_and_its_size() {
        let mut kept = Kept::default();
        (0..3).for_each(|_| kept.add_owner());
        assert_eq!(kept.put(1, 512, 7), None);
        assert_eq!((kept.take(2, 512), kept.take(1, 1024)), (None, None));
        assert_eq!(kept.take(1, 512), Some(7));
        assert_eq!(kept.take(1, 512), None);
    }

    #[test]
    fn sizes_spread_and_all_come_out_again() {
        let mut kept = Kept::default();
        (0..2).for_each(|_| kept.add_owner());
        let displaced =
            (1..=48).filter(|units| kept.put(1, units * ALIGNMENT_BYTES, *units as u32).is_some()).count();
        assert!(displaced <= 24, "{displaced} of 48 neighbouring sizes share a place");
        let held = kept.iter().count();
        assert_eq!(held + displaced, 48);
        let first = kept.iter().next().unwrap();
        assert_eq!(kept.take(1, first.1), Some(first.2));
        assert_eq!(std::iter::from_fn(|| kept.pop()).count(), held - 1, "an emptied place is passed over");
        assert_eq!(kept.iter().count(), 0);
    }
}
