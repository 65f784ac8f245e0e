use super::block::{Block, NONE, Slab};
use crate::ALIGNMENT_BYTES;

/// Bins of one power of two.
const COLUMNS: usize = 32;
/// Powers of two: up to 2^53 bytes.
const ROWS: usize = 40;
/// Blocks of a bin that a search looks at.
const SCAN_MAX: usize = 8;

/// Free blocks by size: a list for each size class, a bit for each list that is not empty.
///
/// 32 classes for each power of two, so sizes in one class differ by at most 3.1 %, and below 32 KiB not at all. A search looks at the first
/// eight blocks of the request's own class and then at those of the next class with any: good fit in constant time.
#[derive(Debug)]
pub(crate) struct Bins {
    rows: u64,
    columns: [u32; ROWS],
    heads: Box<[[u32; COLUMNS]; ROWS]>,
}

impl Bins {
    pub(crate) fn new() -> Self {
        Self { rows: 0, columns: [0; ROWS], heads: Box::new([[NONE; COLUMNS]; ROWS]) }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rows == 0
    }

    #[inline]
    pub(crate) fn insert(&mut self, blocks: &mut Slab, index: u32) {
        let (row, column) = class(blocks[index].bytes);
        let head = std::mem::replace(&mut self.heads[row][column], index);
        let block = &mut blocks[index];
        (block.bin_prev, block.bin_next) = (NONE, head);
        if head != NONE {
            blocks[head].bin_prev = index;
        }
        self.columns[row] |= 1 << column;
        self.rows |= 1 << row;
    }

    /// Takes out a block of exactly `bytes` bytes that is the only one of its list: what [`find`](Bins::find) would find, without a search.
    #[inline(always)]
    pub(crate) fn take_only(&mut self, blocks: &Slab, bytes: u64) -> Option<u32> {
        let (row, column) = class(bytes);
        let head = &mut self.heads[row][column];
        let only = *head;
        if only == NONE || blocks[only].bytes != bytes || blocks[only].bin_next != NONE {
            return None;
        }
        *head = NONE;
        self.unmark(row, column);
        Some(only)
    }

    /// Notes that a list is empty.
    #[inline(always)]
    fn unmark(&mut self, row: usize, column: usize) {
        self.columns[row] &= !(1 << column);
        if self.columns[row] == 0 {
            self.rows &= !(1 << row);
        }
    }

    #[inline]
    pub(crate) fn remove(&mut self, blocks: &mut Slab, index: u32) {
        let Block { bytes, bin_prev, bin_next, .. } = blocks[index];
        if bin_next != NONE {
            blocks[bin_next].bin_prev = bin_prev;
        }
        if bin_prev != NONE {
            blocks[bin_prev].bin_next = bin_next;
            return;
        }
        let (row, column) = class(bytes);
        self.heads[row][column] = bin_next;
        if bin_next == NONE {
            self.unmark(row, column);
        }
    }

    /// A block of at least `bytes` bytes that is `allowed`: a short one, then a low one.
    #[inline]
    pub(crate) fn find(&self, blocks: &Slab, bytes: u64, allowed: impl Fn(&Block) -> bool) -> Option<u32> {
        let (row, column) = class(bytes);
        let own = self.heads[row][column];
        if own != NONE
            && let Some(found) = scan(blocks, own, bytes, &allowed)
        {
            return Some(found);
        }
        let head = self.next_head(row, column + 1)?;
        scan(blocks, head, bytes, &allowed)
    }

    /// Every block of at least `bytes` bytes.
    pub(crate) fn at_least<'a>(&'a self, blocks: &'a Slab, bytes: u64) -> impl Iterator<Item = u32> + 'a {
        let (row, column) = class(bytes);
        let first = self.next_bin(row, column);
        let bins = std::iter::successors(first, |bin| self.next_bin(bin / COLUMNS, bin % COLUMNS + 1));
        let found = bins.flat_map(|bin| list(blocks, self.heads[bin / COLUMNS][bin % COLUMNS]));
        found.filter(move |index| blocks[*index].bytes >= bytes)
    }

    /// Length of the longest block, about: of the first one in the highest class.
    pub(crate) fn largest(&self, blocks: &Slab) -> u64 {
        let Some(row) = self.rows.checked_ilog2() else { return 0 };
        let row = row as usize;
        let column = self.columns[row].ilog2() as usize;
        list(blocks, self.heads[row][column]).map(|index| blocks[index].bytes).max().unwrap_or(0)
    }

    /// Checks that exactly the given free blocks, in order of their numbers, are in here, each in its list: for audits.
    pub(crate) fn audit(&self, blocks: &Slab, expected: &[u32]) -> Result<(), String> {
        let mut found = Vec::with_capacity(expected.len());
        for (row, heads) in self.heads.iter().enumerate() {
            if (self.rows >> row & 1 == 1) != (self.columns[row] != 0) {
                return Err(format!("I3: row {row} of the bitmap is wrong"));
            }
            if self.columns[row] == 0 && *heads == [NONE; COLUMNS] {
                continue;
            }
            for (column, head) in heads.iter().enumerate() {
                let marked = self.columns[row] >> column & 1 == 1;
                if marked != (*head != NONE) {
                    return Err(format!("I3: the bitmap says {marked} of bin {row}, {column}"));
                }
                let mut before = NONE;
                for index in list(blocks, *head) {
                    if class(blocks[index].bytes) != (row, column) || blocks[index].bin_prev != before {
                        return Err(format!("I3: block {index} is wrongly linked in bin {row}, {column}"));
                    }
                    before = index;
                    found.push(index);
                }
            }
        }
        found.sort_unstable();
        if found == expected { Ok(()) } else { Err(format!("I3: bins hold {found:?}, not {expected:?}")) }
    }

    /// The first list that is not empty from a class on.
    #[inline]
    fn next_head(&self, row: usize, column: usize) -> Option<u32> {
        self.next_bin(row, column).map(|bin| self.heads[bin / COLUMNS][bin % COLUMNS])
    }

    #[inline]
    fn next_bin(&self, row: usize, column: usize) -> Option<usize> {
        // `column` may be one past the last.
        let here = self.columns[row].checked_shr(column as u32).unwrap_or(0);
        if here != 0 {
            return Some(row * COLUMNS + column + here.trailing_zeros() as usize);
        }
        let above = self.rows >> (row + 1);
        if above == 0 {
            return None;
        }
        let row = row + 1 + above.trailing_zeros() as usize;
        Some(row * COLUMNS + self.columns[row].trailing_zeros() as usize)
    }
}

fn list(blocks: &Slab, head: u32) -> impl Iterator<Item = u32> + '_ {
    let first = (head != NONE).then_some(head);
    std::iter::successors(first, |index| {
        let next = blocks[*index].bin_next;
        (next != NONE).then_some(next)
    })
}

/// Whether blocks of both sizes are in the same list.
#[inline]
pub(crate) fn is_same_class(a: u64, b: u64) -> bool {
    class(a) == class(b)
}

/// The best of the first blocks of a list.
#[inline]
fn scan(blocks: &Slab, head: u32, bytes: u64, allowed: &impl Fn(&Block) -> bool) -> Option<u32> {
    let (mut best, mut least) = (NONE, u64::MAX);
    let mut next = head;
    for _ in 0..SCAN_MAX {
        let block = &blocks[next];
        let is_long = block.bytes >= bytes && block.bytes <= least;
        if is_long && (block.bytes < least || is_lower(block, &blocks[best])) && allowed(block) {
            (best, least) = (next, block.bytes);
        }
        next = block.bin_next;
        if next == NONE {
            break;
        }
    }
    (best != NONE).then_some(best)
}

#[inline]
fn is_lower(a: &Block, b: &Block) -> bool {
    (a.region, a.offset) < (b.region, b.offset)
}

/// Row and column of a size, which is a multiple of the alignment and not 0.
#[inline]
fn class(bytes: u64) -> (usize, usize) {
    let units = bytes / ALIGNMENT_BYTES;
    debug_assert!(units > 0, "a block of {bytes} bytes");
    // The first row has what is below its length, the second one's classes are as narrow.
    let row = (units | (COLUMNS as u64 - 1)).ilog2() - (COLUMNS.ilog2() - 1);
    let column = (units >> row.saturating_sub(1)) as usize & (COLUMNS - 1);
    (row as usize, column)
}

#[cfg(test)]
mod tests {
    use super::super::block::{Heap, State};
    use super::*;

    #[test]
    fn classes_are_ordered_and_narrow() {
        let (mut last, mut first) = ((0, 0), 0);
        for units in 1..200_000_u64 {
            let now = class(units * ALIGNMENT_BYTES);
            assert!(now >= last, "{units}: {now:?} after {last:?}");
            if now != last {
                (last, first) = (now, units);
            }
            assert!((units - first) * 32 < first, "{first} and {units} share {now:?}");
            assert!(units >= 64 || units == first, "{first} and {units} share {now:?} below 32 KiB");
        }
        assert!(class((1 << 53) - ALIGNMENT_BYTES).0 < ROWS);
    }

    #[test]
    fn good_fit_takes_the_shortest_then_the_lowest() {
        let (mut blocks, mut bins) = (Slab::default(), Bins::new());
        for (offset, units) in [(0, 10), (100, 4), (200, 4), (300, 64), (400, 200)] {
            let block = Block::new(Heap::Small, 0, offset * 512, units * ALIGNMENT_BYTES, State::Free);
            let index = blocks.insert(block);
            bins.insert(&mut blocks, index);
        }
        let find = |units: u64| {
            let found = bins.find(&blocks, units * ALIGNMENT_BYTES, |_| true);
            found.map(|index| blocks[index].offset / 512)
        };
        assert_eq!(find(4), Some(100));
        assert_eq!(find(5), Some(0));
        assert_eq!(find(11), Some(300));
        assert_eq!(find(65), Some(400));
        assert_eq!(find(201), None);
        assert_eq!(bins.largest(&blocks), 200 * 512);
        bins.audit(&blocks, &[0, 1, 2, 3, 4]).unwrap();
        for index in [3, 1, 4, 0, 2] {
            bins.remove(&mut blocks, index);
        }
        assert!(bins.is_empty());
        bins.audit(&blocks, &[]).unwrap();
    }

    #[test]
    fn only_a_block_of_just_this_length_that_is_alone_is_taken_without_a_search() {
        let (mut blocks, mut bins) = (Slab::default(), Bins::new());
        let add = |blocks: &mut Slab, bins: &mut Bins, offset: u64, units: u64| {
            let block = Block::new(Heap::Large, 0, offset * 512, units * ALIGNMENT_BYTES, State::Free);
            let index = blocks.insert(block);
            bins.insert(blocks, index);
            index
        };
        let long = add(&mut blocks, &mut bins, 0, 8193);
        assert_eq!(bins.take_only(&blocks, 8192 * 512), None, "a longer one of the class");
        let just = add(&mut blocks, &mut bins, 20_000, 8192);
        assert_eq!(
            bins.take_only(&blocks, 8192 * 512),
            None,
            "one of two, of which a search finds the lower"
        );
        bins.audit(&blocks, &[long, just]).unwrap();
        bins.remove(&mut blocks, long);
        assert_eq!(bins.take_only(&blocks, 8192 * 512), Some(just));
        assert_eq!(bins.take_only(&blocks, 8192 * 512), None);
        bins.audit(&blocks, &[]).unwrap();
        assert!(bins.is_empty());
    }
}
