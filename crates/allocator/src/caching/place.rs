//! Where addresses get memory when no free block is long enough.

use super::block::{Block, NOBODY, NONE, State};
use super::chunks::Place as ChunkPlace;
use super::core::{Core, Given, Piece, Request};
use super::ring::{Action, Event};

/// Pages without memory in a row, some of which are to get some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// First page that may be filled.
    pub(crate) first: u64,
    /// Pages that may be filled.
    pub(crate) pages: u64,
    /// Pages that must be.
    pub(crate) needed: u64,
    /// Whether the needed ones are the last, not the first.
    pub(crate) from_high: bool,
}

/// A range of addresses that a request may have: free memory and bare addresses in a row.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The block in which it starts.
    first: u32,
    /// Where the request starts.
    start: u64,
    /// What is claimed: the request, widened to whole pages over bare addresses.
    claim: (u64, u64),
    pub(crate) runs: Vec<Run>,
}

impl Place {
    /// Where the request starts in its region.
    pub(crate) const fn start(&self) -> u64 {
        self.start
    }
}

/// A place that one thread holds.
#[derive(Debug)]
pub(crate) struct Growth {
    pub(crate) place: Place,
    pub(crate) region: u16,
    block: u32,
    /// What it was before.
    before: Vec<Piece>,
}

impl Core {
    /// The place that misses the fewest pages; the lowest of several. Memory whose use must be waited for is no part of one.
    pub(crate) fn choose_place(&self, request: &Request, big: u64) -> Option<Place> {
        let mut best: Option<(u64, u16, u64, u32)> = None;
        let mut seen = (0, 0);
        let all = (request.heap, 0, 0)..=(request.heap, u16::MAX, u64::MAX);
        for ((_, region, offset), bare) in self.bare.range(all) {
            if seen.0 == *region && *offset < seen.1 {
                continue;
            }
            let run = self.run_around(*bare, request.owner);
            seen = (*region, run.last().map_or(0, |last| self.blocks[*last].end()));
            for (start, first) in self.windows(&run, request.bytes) {
                let key = (self.missing(first, start, request.bytes), *region, start, first);
                if best.is_none_or(|best| key < best) {
                    best = Some(key);
                }
            }
        }
        best.map(|(_, _, start, first)| self.place(first, start, request.bytes, big))
    }

    /// The place that starts at this offset of a region, if all of it is free.
    pub(crate) fn place_at(&self, (region, start): (u16, u64), request: &Request, big: u64) -> Option<Place> {
        let first = self.block_at(region, start)?;
        let end = start + request.bytes;
        let run = self.run_around(first, request.owner);
        let holds = self.is_usable(first, request.owner) && self.blocks[*run.last()?].end() >= end;
        holds.then(|| self.place(first, start, request.bytes, big))
    }

    /// The block in which an offset lies.
    pub(crate) fn block_at(&self, region: u16, offset: u64) -> Option<u32> {
        let mut next = self.regions[region as usize].first;
        while next != NONE && self.blocks[next].end() <= offset {
            next = self.blocks[next].next;
        }
        (next != NONE).then_some(next)
    }

    /// Takes a place out of the free and bare blocks.
    pub(crate) fn claim_place(&mut self, place: Place) -> Growth {
        let (low, high) = place.claim;
        let mut before = Vec::new();
        let mut block = NONE;
        let mut next = place.first;
        loop {
            let part = self.blocks[next];
            let (from, to) = (low.max(part.offset), high.min(part.end()));
            before.push(Piece { end: to, state: part.state, owner: part.owner, stamp: part.stamp });
            let carved = self.carve(next, from, to);
            if block == NONE {
                block = carved;
            } else {
                self.absorb(block, carved);
            }
            if to == high {
                break;
            }
            next = self.blocks[block].next;
        }
        Growth { region: self.blocks[block].region, place, block, before }
    }

    /// Puts everything back as it was; nothing is mapped.
    pub(crate) fn abandon(&mut self, growth: &Growth) {
        self.replace(growth.block, &growth.before);
    }

    /// Hands a place out after its runs were filled by chunks: each with its first page.
    pub(crate) fn finish_growth(
        &mut self,
        growth: &Growth,
        filled: &[(u64, u32)],
        request: &Request,
    ) -> Given {
        let (low, high) = growth.place.claim;
        let (start, end) = (growth.place.start, growth.place.start + request.bytes);
        let (mut mapped_low, mut mapped_high) = (start, end);
        for (page, chunk) in filled {
            let pages = self.chunks.get(*chunk).pages;
            self.set_pages(growth.region, *page, pages, *chunk);
            mapped_low = mapped_low.min(page * self.page);
            mapped_high = mapped_high.max((page + pages) * self.page);
        }
        // What lies before the start and behind the end in blocks that had memory is part of the claim only if it is the request's.
        let own = growth.before.iter().filter(|piece| piece.owner == request.owner);
        let stamp = own.map(|piece| piece.stamp).max().unwrap_or(0);
        let bare = |end| Piece { end, state: State::Bare, owner: NOBODY, stamp: 0 };
        let free = |end| Piece { end, state: State::Free, owner: request.owner, stamp };
        let used = Piece { end, state: State::Used, owner: request.owner, stamp };
        let pieces = [bare(mapped_low), free(start), used, free(mapped_high), bare(high)];
        let mut at = low;
        let kept: Vec<Piece> = pieces
            .into_iter()
            .filter(|piece| {
                let kept = piece.end > at;
                at = at.max(piece.end);
                kept
            })
            .collect();
        let position = kept.iter().position(|piece| piece.state == State::Used).unwrap_or(0);
        let index = self.replace(growth.block, &kept)[position];
        self.hand_out(index, request)
    }

    /// Notes a chunk behind pages that had none.
    pub(crate) fn set_pages(&mut self, region: u16, first: u64, pages: u64, chunk: u32) {
        let page = self.page;
        let book = &mut self.regions[region as usize];
        let (from, to) = (first as usize, (first + pages) as usize);
        if book.pages.len() < to {
            book.pages.resize(to, NONE);
        }
        book.pages[from..to].fill(chunk);
        let (heap, address) = (book.heap, book.address);
        self.chunks.put(chunk, ChunkPlace::At { region, page: first });
        self.counts.map(heap, pages * page);
        self.ring.push(Event::pages(Action::Map, address + first * page, pages * page));
    }

    /// The free and bare blocks in a row around one, as far as a stream may use them at once.
    fn run_around(&self, index: u32, owner: u16) -> Vec<u32> {
        let usable = |index| self.is_usable(index, owner);
        let mut first = index;
        while self.blocks[first].prev != NONE && usable(self.blocks[first].prev) {
            first = self.blocks[first].prev;
        }
        let mut run = vec![first];
        let mut last = first;
        while self.blocks[last].next != NONE && usable(self.blocks[last].next) {
            last = self.blocks[last].next;
            run.push(last);
        }
        run
    }

    fn is_usable(&self, index: u32, owner: u16) -> bool {
        let block = &self.blocks[index];
        match block.state {
            State::Bare => true,
            State::Free => block.owner == owner || block.owner == NOBODY,
            _ => false,
        }
    }

    /// Where a request may start in a run: at the start of each block, and so that it ends with a block that has memory.
    fn windows(&self, run: &[u32], bytes: u64) -> Vec<(u64, u32)> {
        let edges = run.first().zip(run.last());
        let Some((low, high)) = edges.map(|(a, b)| (self.blocks[*a].offset, self.blocks[*b].end())) else {
            return Vec::new();
        };
        let mut windows = Vec::new();
        for (position, index) in run.iter().enumerate() {
            let block = &self.blocks[*index];
            if high - block.offset >= bytes {
                windows.push((block.offset, *index));
            }
            if block.state == State::Free && block.end() - low >= bytes {
                let start = block.end() - bytes;
                let holds = |index: &&u32| self.blocks[**index].offset <= start;
                let first = run[..=position].iter().rev().find(holds);
                windows.extend(first.map(|first| (start, *first)));
            }
        }
        windows
    }

    /// Pages without memory under a request that starts in the block `first`.
    fn missing(&self, first: u32, start: u64, bytes: u64) -> u64 {
        let mut missing = 0;
        self.each_bare(first, start, start + bytes, |_, from, to| missing += to - from);
        missing
    }

    fn each_bare(&self, first: u32, start: u64, end: u64, mut see: impl FnMut(&Block, u64, u64)) {
        let mut next = first;
        while next != NONE && self.blocks[next].offset < end {
            let block = &self.blocks[next];
            if block.state == State::Bare {
                let from = block.offset.max(start) / self.page;
                let to = block.end().min(end).div_ceil(self.page);
                see(block, from, to);
            }
            next = block.next;
        }
    }

    fn place(&self, first: u32, start: u64, bytes: u64, big: u64) -> Place {
        let end = start + bytes;
        let (mut low, mut high) = (start, end);
        let mut runs = Vec::new();
        self.each_bare(first, start, end, |block, from, to| {
            let (block_from, block_to) = (block.offset / self.page, block.end() / self.page);
            let needed = to - from;
            // Room for a whole number of big chunks, where there is some.
            let extra = needed.next_multiple_of(big) - needed;
            let from_high = from > block_from && to == block_to;
            let run = if from_high {
                let extra = extra.min(from - block_from);
                Run { first: from - extra, pages: needed + extra, needed, from_high }
            } else {
                let extra = extra.min(block_to - to);
                Run { first: from, pages: needed + extra, needed, from_high }
            };
            low = low.min(run.first * self.page);
            high = high.max((run.first + run.pages) * self.page);
            runs.push(run);
        });
        Place { first, start, claim: (low, high), runs }
    }
}

/// Which chunks go where: `None` if these do not suffice.
///
/// Big ones go where they fit without a page too many; where small ones run out, also where they reach over into pages that need not be filled.
pub(crate) fn fit(runs: &[Run], big: u64, bigs: usize, smalls: usize) -> Option<Vec<(u64, u64)>> {
    let whole: u64 = runs.iter().map(|run| run.needed / big).sum();
    let used = whole.min(bigs as u64);
    let mut spare_bigs = bigs as u64 - used;
    let mut left = used;
    let mut smalls = smalls as u64;
    let total: u64 = runs.iter().map(|run| run.needed).sum();
    let mut short = (total - used * big).saturating_sub(smalls);
    let mut pieces = Vec::new();
    for run in runs {
        let mut placed = 0;
        while placed < run.needed {
            let rest = run.needed - placed;
            let reach = rest < big && short > 0 && spare_bigs > 0 && run.pages - placed >= big;
            let pages = if rest >= big && left > 0 {
                left -= 1;
                big
            } else if reach {
                spare_bigs -= 1;
                short = short.saturating_sub(rest);
                big
            } else if smalls > 0 {
                smalls -= 1;
                1
            } else {
                return None;
            };
            let first =
                if run.from_high { run.first + run.pages - placed - pages } else { run.first + placed };
            pieces.push((first, pages));
            placed += pages;
        }
    }
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(pages: u64, needed: u64) -> Run {
        Run { first: 100, pages, needed, from_high: false }
    }

    #[test]
    fn chunks_fill_runs() {
        assert_eq!(fit(&[run(8, 3)], 8, 0, 3), Some(vec![(100, 1), (101, 1), (102, 1)]));
        assert_eq!(fit(&[run(8, 3)], 8, 0, 2), None);
        assert_eq!(fit(&[run(8, 3)], 8, 1, 2), Some(vec![(100, 8)]));
        assert_eq!(fit(&[run(3, 3)], 8, 1, 2), None);
        assert_eq!(fit(&[run(16, 10)], 8, 1, 2), Some(vec![(100, 8), (108, 1), (109, 1)]));
        assert_eq!(fit(&[run(16, 10)], 8, 2, 0), Some(vec![(100, 8), (108, 8)]));
        let high = Run { from_high: true, ..run(16, 9) };
        assert_eq!(fit(&[high], 8, 1, 1), Some(vec![(108, 8), (107, 1)]));
    }
}
