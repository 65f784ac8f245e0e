//! Pages that hold nothing are taken from free blocks, to be mapped where they are needed.

use std::cmp::Reverse;

use super::block::{Heap, NONE, State};
use super::chunks::Place;
use super::core::{Core, Request};
use super::ring::{Action, Event};

/// Whole chunks in a row that hold nothing: taken out of a free block.
#[derive(Debug)]
pub(crate) struct Victim {
    pub(crate) region: u16,
    pub(crate) first: u64,
    pub(crate) pages: u64,
    pub(crate) chunks: Vec<u32>,
    block: u32,
}

/// Empty chunks in a row, in one free block.
#[derive(Clone, Copy, Debug)]
struct Empty {
    block: u32,
    /// First page and the one behind the last.
    pages: (u64, u64),
    stamp: u64,
}

impl Core {
    /// Takes chunks of at least so many pages, if there are, that hold nothing and that no pending work uses. The longest runs go first.
    pub(crate) fn claim_victims(&mut self, pages: u64) -> Vec<Victim> {
        let mut empties = self.empties();
        // The longest run first, then the one that lay idle longest: what is left over by others' stays in use, and few calls unmap it.
        empties
            .sort_unstable_by_key(|empty| (Reverse(empty.pages.1 - empty.pages.0), empty.stamp, empty.block));
        let mut victims = Vec::new();
        let mut left = pages;
        for empty in empties {
            if left == 0 {
                break;
            }
            let victim = self.claim_victim(&empty, left);
            left = left.saturating_sub(victim.pages);
            victims.push(victim);
        }
        if !victims.is_empty() {
            self.counts.events.steals += 1;
        }
        victims
    }

    /// Takes the chunks that hold nothing and of which a place covers a part only, if what they have outside of it makes up for `missing` pages.
    ///
    /// This is what keeps a request that fits from being refused. Let nothing be pending, as when the ladder ends, and every page count as *held* (in a
    /// chunk that holds something), *empty* (in one that does not) or *bare*. A place of a request of `r` pages, rounded up, covers at most `r` pages that
    /// are not held: it touches `r + 1` only if it starts or ends within a page, and such a page is shared with a block that is in use, or else the free
    /// blocks on both sides were one. Let the place lack `missing` pages although everything empty that it does not touch was taken, and the limit be
    /// reached. Then what exists is `held`, the empty chunks that it touches with `out` pages outside, and what was taken for it: together at most
    /// `held + r + out - missing` pages. If the request fits, which is `held + r` within the limit, then the limit can be reached only if `out >= missing`.
    /// So these chunks are there, at the two edges, since a chunk without anything in it lies in one free block and only an edge can cut it; and once they are in the
    /// pool, the same place lacks nothing, since big chunks that fit nowhere are given up for small ones.
    ///
    /// It comes last: most places cut nothing, and the one that misses the fewest pages costs the fewest calls.
    pub(crate) fn claim_edges(
        &mut self,
        (region, start): (u16, u64),
        request: &Request,
        missing: u64,
    ) -> Vec<Victim> {
        let end = start + request.bytes;
        let (first, last) = (start / self.page, end.div_ceil(self.page));
        let mut edges: Vec<(u64, Empty)> = [start, end - 1]
            .into_iter()
            .filter_map(|offset| self.empty_at(region, offset))
            .map(|empty| {
                let outside = first.saturating_sub(empty.pages.0) + empty.pages.1.saturating_sub(last);
                (outside, empty)
            })
            .collect();
        // One that suffices is enough.
        edges.sort_by_key(|(outside, _)| Reverse(*outside));
        if edges.iter().map(|(outside, _)| outside).sum::<u64>() < missing {
            return Vec::new();
        }
        let (mut victims, mut freed) = (Vec::new(), 0);
        for (outside, empty) in edges {
            if freed < missing {
                victims.push(self.claim_victim(&empty, empty.pages.1 - empty.pages.0));
                freed += outside;
            }
        }
        self.counts.events.steals += u64::from(!victims.is_empty());
        victims
    }

    /// The chunk behind an offset, if it holds nothing and nothing that is pending uses it.
    fn empty_at(&self, region: u16, offset: u64) -> Option<Empty> {
        let index = self.block_at(region, offset)?;
        let block = &self.blocks[index];
        let is_done = block.stamp <= self.streams[block.owner as usize].completed;
        if block.state != State::Free || !is_done {
            return None;
        }
        let chunk = self.chunks.get(self.regions[region as usize].pages[(offset / self.page) as usize]);
        let Place::At { page, .. } = chunk.place else { return None };
        let pages = (page, page + chunk.pages);
        let is_whole = block.offset <= pages.0 * self.page && pages.1 * self.page <= block.end();
        is_whole.then_some(Empty { block: index, pages, stamp: block.stamp })
    }

    /// Notes that a victim's pages were unmapped: its chunks are in hand.
    pub(crate) fn finish_victim(&mut self, victim: &Victim) {
        let book = &mut self.regions[victim.region as usize];
        book.pages[victim.first as usize..(victim.first + victim.pages) as usize].fill(NONE);
        let (heap, address) = (book.heap, book.address + victim.first * self.page);
        let bytes = victim.pages * self.page;
        for chunk in &victim.chunks {
            self.chunks.put(*chunk, Place::InHand);
        }
        self.counts.unmap(heap, bytes);
        self.counts.events.unmaps += 1;
        self.ring.push(Event::pages(Action::Unmap, address, bytes));
        self.strip(victim.block);
    }

    fn empties(&self) -> Vec<Empty> {
        let mut empties = Vec::new();
        for (owner, book) in self.streams.iter().enumerate() {
            for heap in Heap::ALL {
                let blocks = self.bins(owner, heap).at_least(&self.blocks, self.page);
                let done = blocks.filter(|index| self.blocks[*index].stamp <= book.completed);
                empties.extend(done.filter_map(|index| self.empty(index)));
            }
        }
        empties
    }

    /// The chunks that lie wholly in a free block.
    fn empty(&self, index: u32) -> Option<Empty> {
        let block = &self.blocks[index];
        debug_assert!(block.state == State::Free);
        let (low, high) = (block.offset.div_ceil(self.page), block.end() / self.page);
        let region = &self.regions[block.region as usize];
        let start_of = |page: u64| {
            let book = self.chunks.get(region.pages[page as usize]);
            let Place::At { page, .. } = book.place else {
                unreachable!("a mapped chunk is somewhere: {book:?}")
            };
            (page, page + book.pages)
        };
        if low >= high {
            return None;
        }
        let (_, first_end) = start_of(low);
        let (last_start, last_end) = start_of(high - 1);
        let first = if start_of(low).0 < low { first_end } else { low };
        let last = if last_end > high { last_start } else { high };
        (first < last).then_some(Empty { block: index, pages: (first, last), stamp: block.stamp })
    }

    /// Takes the highest chunks of a free block: low addresses stay in use.
    fn claim_victim(&mut self, empty: &Empty, pages: u64) -> Victim {
        let region = self.blocks[empty.block].region;
        let (low, high) = empty.pages;
        let mut first = high;
        let mut chunks = Vec::new();
        while first > low && high - first < pages {
            let chunk = self.regions[region as usize].pages[first as usize - 1];
            first -= self.chunks.get(chunk).pages;
            chunks.push(chunk);
        }
        let block = self.carve(empty.block, first * self.page, high * self.page);
        Victim { region, first, pages: high - first, chunks, block }
    }
}
