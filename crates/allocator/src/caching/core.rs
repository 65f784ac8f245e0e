//! Who holds which addresses, as arithmetic: no device, no lock, no driver call.

use std::collections::BTreeMap;

use super::bins::{Bins, is_same_class};
use super::block::{Block, Heap, NOBODY, NONE, Slab, State};
use super::chunks::Chunks;
use super::counts::Counts;
use super::kept::Kept;
use super::ring::{Action, Event, Ring};
use super::uses::Uses;
use crate::ALIGNMENT_BYTES;

/// A reserved range of addresses.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) heap: Heap,
    pub(crate) address: u64,
    pub(crate) bytes: u64,
    /// The first block of the chain.
    pub(crate) first: u32,
    /// Chunk behind each page or [`NONE`], up to the last page that ever had one.
    pub(crate) pages: Vec<u32>,
}

/// What is known of a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamBook {
    /// Copy streams never wait for compute.
    pub(crate) latency: bool,
    /// Stamp of the last memory given back that its work may use.
    pub(crate) last_free: u64,
    /// Work up to here has an event behind it.
    pub(crate) covered: u64,
    /// Work up to here is done.
    pub(crate) completed: u64,
    /// Blocks given back since the last event.
    pub(crate) frees: u64,
}

impl StreamBook {
    pub(crate) const fn new(latency: bool, now: u64) -> Self {
        Self { latency, last_free: 0, covered: now, completed: now, frees: 0 }
    }
}

/// One request, rounded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) heap: Heap,
    /// A multiple of the alignment, at most [`TOO_LONG`].
    pub(crate) bytes: u64,
    /// As asked for: what was served is no longer than `bytes`, what is refused may be.
    pub(crate) requested: u64,
    pub(crate) owner: u16,
    pub(crate) tag: u16,
}

/// Beyond every address space, a multiple of the alignment, and small enough to calculate with: a request of so many bytes finds no room.
pub(crate) const TOO_LONG: u64 = 1 << 52;

impl Request {
    #[inline]
    pub(crate) fn new(bytes: u64, owner: u16, tag: u16) -> Self {
        let requested = bytes.max(1);
        let bytes = (requested.min(TOO_LONG) + (ALIGNMENT_BYTES - 1)) & !(ALIGNMENT_BYTES - 1);
        Self { heap: Heap::of(bytes), bytes, requested, owner, tag }
    }
}

/// A block that was handed out.
///
/// What returns one, or the handle that is made of it, when the books have a block at once is always inlined, up to
/// [`OnStream::allocate`](super::allocator::OnStream::allocate), so that it stays in registers: in memory it is written word by word and read as one, for which a
/// processor waits. A pair of 512 bytes took 27 ns where [`Core::take`] was called, and 36 where the handle went through memory too, since another function
/// could return one; without either it takes 21.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given {
    pub(crate) index: u32,
    pub(crate) address: u64,
    pub(crate) generation: u64,
}

/// All books of an allocator.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) page: u64,
    pub(crate) blocks: Slab,
    pub(crate) regions: Vec<Region>,
    /// By owner, then by heap.
    bins: Vec<[Bins; 2]>,
    /// Addresses without memory by heap, region and offset.
    pub(crate) bare: BTreeMap<(Heap, u16, u64), u32>,
    pub(crate) kept: Kept,
    pub(crate) chunks: Chunks,
    /// By owner; the first is [`NOBODY`], whose work is always done.
    pub(crate) streams: Vec<StreamBook>,
    pub(crate) uses: Uses,
    /// Blocks that other streams may still use, in the order in which they were given back.
    pub(crate) pending: Vec<u32>,
    /// How often work was found to be done.
    pub(crate) completions: u64,
    pub(crate) counts: Counts,
    pub(crate) ring: Ring,
    /// Counts everything that is handed out or given back: the clock of this allocator.
    pub(crate) sequence: u64,
    /// Bytes of large blocks that are lent.
    pub(crate) lent_bytes: u64,
}

impl Core {
    pub(crate) fn new(page: u64, ring_events: usize) -> Self {
        let nobody = StreamBook { completed: u64::MAX, ..StreamBook::new(true, 0) };
        let mut kept = Kept::default();
        kept.add_owner();
        Self {
            page,
            blocks: Slab::default(),
            regions: Vec::new(),
            bins: vec![[Bins::new(), Bins::new()]],
            bare: BTreeMap::new(),
            kept,
            chunks: Chunks::default(),
            streams: vec![nobody],
            uses: Uses::default(),
            pending: Vec::new(),
            completions: 0,
            counts: Counts::default(),
            ring: Ring::new(ring_events),
            sequence: 0,
            lent_bytes: 0,
        }
    }

    /// Adds a range of addresses without memory.
    pub(crate) fn add_region(&mut self, heap: Heap, address: u64, bytes: u64) {
        let number = u16::try_from(self.regions.len()).unwrap_or(u16::MAX);
        assert!(number < u16::MAX, "more than {number} regions");
        let first = self.blocks.insert(Block::new(heap, number, 0, bytes, State::Bare));
        self.regions.push(Region { heap, address, bytes, first, pages: Vec::new() });
        self.link(first);
    }

    /// Adds a stream; its number as an owner.
    pub(crate) fn add_stream(&mut self, latency: bool) -> u16 {
        let owner = u16::try_from(self.streams.len()).unwrap_or(u16::MAX);
        assert!(owner < u16::MAX, "more than {owner} streams");
        self.streams.push(StreamBook::new(latency, self.sequence));
        self.bins.push([Bins::new(), Bins::new()]);
        self.kept.add_owner();
        owner
    }

    /// The block of a handle, if it was not given back.
    #[inline]
    pub(crate) fn valid(&self, index: u32, generation: u64) -> Option<&Block> {
        let block = self.blocks.get(index)?;
        (block.state == State::Used && block.generation == generation).then_some(block)
    }

    /// Notes a refusal in the trace.
    pub(crate) fn note_oom(&mut self, left: u64, request: &Request) {
        let event = Event { action: Action::Oom, ..Event::alloc(left, 0, request) };
        self.ring.push(event);
    }

    #[inline]
    pub(crate) fn address(&self, block: &Block) -> u64 {
        self.regions[block.region as usize].address + block.offset
    }

    /// Hands out memory that is there and may be used at once.
    #[inline(always)]
    pub(crate) fn take(&mut self, request: &Request) -> Option<Given> {
        if request.heap == Heap::Small
            && let Some(index) = self.kept.take(request.owner, request.bytes)
        {
            return Some(self.hand_out(index, request));
        }
        let index = self.take_free(request)?;
        Some(self.given(index))
    }

    #[inline(never)]
    fn take_free(&mut self, request: &Request) -> Option<u32> {
        let own = &mut self.bins[request.owner as usize][request.heap.index()];
        // Nobody's, too, is no shorter than the request.
        let index = own.take_only(&self.blocks, request.bytes).or_else(|| self.detach_found(request))?;
        self.hand_out(index, request);
        Some(index)
    }

    /// A block found by a search, in no list any more.
    #[inline(never)]
    fn detach_found(&mut self, request: &Request) -> Option<u32> {
        match self.find_own(request) {
            Some(found) => Some(self.detach(found, request)),
            None => self.detach_joined(request),
        }
    }

    /// As [`detach_found`](Core::detach_found), after what was kept is joined.
    #[cold]
    fn detach_joined(&mut self, request: &Request) -> Option<u32> {
        self.join_kept();
        let found = self.find_own(request).or_else(|| self.find_completed(request))?;
        Some(self.detach(found, request))
    }

    /// Puts what was given back a moment ago among the free ones.
    pub(crate) fn join_kept(&mut self) {
        while let Some(index) = self.kept.pop() {
            self.release(index);
        }
    }

    /// As [`take`](Core::take), but looks at every free block that may be used at once, not at eight of a class.
    pub(crate) fn take_any(&mut self, request: &Request) -> Option<Given> {
        let books = &*self;
        let usable = (0..books.streams.len()).flat_map(move |owner| {
            // All work of the request's own stream comes before what will use the block.
            let is_own = owner == usize::from(request.owner);
            let completed = if is_own { u64::MAX } else { books.streams[owner].completed };
            let blocks = books.bins(owner, request.heap).at_least(&books.blocks, request.bytes);
            blocks.filter(move |index| books.blocks[*index].stamp <= completed)
        });
        let found = usable.min_by_key(|index| {
            let block = &books.blocks[*index];
            (block.bytes, block.region, block.offset)
        })?;
        let index = self.detach(found, request);
        Some(self.hand_out(index, request))
    }

    /// Takes the start of a free block out of the lists; the rest stays free.
    #[inline]
    fn detach(&mut self, index: u32, request: &Request) -> u32 {
        let Block { bytes, owner, heap, .. } = self.blocks[index];
        debug_assert!(self.blocks[index].state == State::Free && bytes >= request.bytes);
        self.counts.events.cross_stream_free += u64::from(owner != request.owner);
        if bytes != request.bytes {
            return self.cut(index, request.bytes);
        }
        self.bins[owner as usize][heap.index()].remove(&mut self.blocks, index);
        index
    }

    /// Cuts the start off a free block that is longer; it is in no list then.
    #[inline(never)]
    fn cut(&mut self, index: u32, bytes: u64) -> u32 {
        let block = &self.blocks[index];
        let (whole, prev) = (block.bytes, block.prev);
        let rest = whole - bytes;
        // The record stays with the rest, in its list if the class is the same, as it mostly is for a long block.
        let stays = is_same_class(whole, rest);
        if !stays {
            self.unlink(index);
        }
        let block = &mut self.blocks[index];
        let first = Block { bytes, next: index, uses: NONE, ..*block };
        block.offset += bytes;
        block.bytes = rest;
        let new = self.blocks.insert(first);
        self.blocks[index].prev = new;
        if prev == NONE {
            self.regions[first.region as usize].first = new;
        } else {
            self.blocks[prev].next = new;
        }
        if !stays {
            self.link(index);
        }
        new
    }

    /// What a handle says of a block that was handed out.
    #[inline]
    fn given(&self, index: u32) -> Given {
        let block = &self.blocks[index];
        Given { index, address: self.address(block), generation: block.generation }
    }

    /// Marks a block as handed out, and counts it.
    #[inline(always)]
    pub(crate) fn hand_out(&mut self, index: u32, request: &Request) -> Given {
        let block = &mut self.blocks[index];
        let generation = self.sequence + 1;
        self.sequence = generation;
        block.state = State::Used;
        block.owner = request.owner;
        block.tag = request.tag;
        block.generation = generation;
        // Below the alignment.
        block.slack = (request.bytes - request.requested) as u32;
        let address = self.regions[block.region as usize].address + block.offset;
        self.counts.allocate(request.heap, request.bytes, request.requested);
        if self.ring.is_on() {
            self.ring.push(Event::alloc(address, generation, request));
        }
        Given { index, address, generation }
    }

    /// Takes a block back that no other stream uses. No driver call, whatever the device does.
    #[inline]
    pub(crate) fn give(&mut self, index: u32) {
        let Block { heap, owner, bytes, .. } = *self.stamp(index);
        if self.ring.is_on() {
            self.note_free(index);
        }
        if heap == Heap::Large {
            return self.release(index);
        }
        self.blocks[index].state = State::Kept;
        if let Some(displaced) = self.kept.put(owner, bytes, index) {
            self.release(displaced);
        }
    }

    #[inline(never)]
    fn note_free(&mut self, index: u32) {
        let block = &self.blocks[index];
        self.ring.push(Event::free(self.address(block), block));
    }

    /// Notes that a block was given back, and counts it: work of its stream that is queued by now may use it.
    #[inline]
    pub(crate) fn stamp(&mut self, index: u32) -> &Block {
        let block = &mut self.blocks[index];
        let now = self.sequence + 1;
        self.sequence = now;
        block.stamp = now;
        let book = &mut self.streams[block.owner as usize];
        book.last_free = now;
        book.frees += 1;
        self.counts.free(block.heap, block.bytes, block.requested());
        block
    }

    /// Takes a block back that other streams use: it waits for them.
    pub(crate) fn give_later(&mut self, index: u32) {
        self.sequence += 1;
        let now = self.sequence;
        let block = &mut self.blocks[index];
        block.stamp = now;
        block.state = State::Pending;
        for (owner, stamp) in self.uses.list_mut(block.uses) {
            *stamp = now;
            self.streams[*owner as usize].last_free = now;
        }
        self.streams[block.owner as usize].last_free = now;
        self.counts.free_later(block.heap, block.bytes, block.requested());
        let region = &self.regions[block.region as usize];
        self.ring.push(Event::free_requested(region.address + block.offset, block));
        self.pending.push(index);
    }

    /// Frees the pending blocks whose uses are done.
    pub(crate) fn settle_pending(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        for index in pending {
            if !self.uses.are_done(self.blocks[index].uses, &self.streams) {
                self.pending.push(index);
                continue;
            }
            self.end_pending(index);
        }
    }

    /// Frees one pending block, which is no longer in the list.
    pub(crate) fn end_pending(&mut self, index: u32) {
        let block = &mut self.blocks[index];
        self.uses.drop_list(std::mem::replace(&mut block.uses, NONE));
        self.counts.end_pending(block.heap, block.bytes);
        let region = &self.regions[block.region as usize];
        self.ring.push(Event::free_completed(region.address + block.offset, block));
        self.release(index);
    }

    /// Joins what was kept, hands memory of streams whose work is done to nobody, and joins what then can be joined.
    pub(crate) fn settle(&mut self) {
        self.join_kept();
        if self.streams.len() <= 2 {
            return;
        }
        for owner in 1..self.streams.len() {
            let completed = self.streams[owner].completed;
            for heap in Heap::ALL {
                let done: Vec<u32> = self.bins[owner][heap.index()]
                    .at_least(&self.blocks, ALIGNMENT_BYTES)
                    .filter(|index| self.blocks[*index].stamp <= completed)
                    .collect();
                for index in done {
                    // An earlier one may have swallowed it: then its record is vacant, or used by a neighbour's rest.
                    if self.blocks[index].state == State::Free
                        && self.blocks[index].owner as usize == owner
                        && self.blocks[index].stamp <= completed
                    {
                        self.unlink(index);
                        self.blocks[index].owner = NOBODY;
                        self.release(index);
                    }
                }
            }
        }
    }

    /// Puts a block that was used, moved or given up into the free ones, and joins it with its neighbours.
    #[inline(never)]
    pub(crate) fn release(&mut self, index: u32) {
        self.enter(index, State::Free);
    }

    /// Turns a block without memory back into bare addresses.
    pub(crate) fn strip(&mut self, index: u32) {
        let block = &mut self.blocks[index];
        (block.owner, block.stamp) = (NOBODY, 0);
        self.lay_bare(index);
    }

    /// Puts addresses without memory among the others, and joins them with their neighbours.
    #[inline(never)]
    fn lay_bare(&mut self, index: u32) {
        self.enter(index, State::Bare);
    }

    /// Makes an unlinked block a free or a bare one, joins it with its neighbours, and links it.
    #[inline(always)]
    fn enter(&mut self, index: u32, state: State) {
        let block = &mut self.blocks[index];
        block.state = state;
        let Block { prev, next, .. } = *block;
        // Mostly it has no such neighbour where it was taken as a whole.
        let is_like = |other: u32| other != NONE && self.blocks[other].state == state;
        if is_like(prev) || is_like(next) {
            return self.join(index);
        }
        self.link_as(index, state);
    }

    /// Joins an unlinked free or bare block with its neighbours, and links it.
    #[inline(never)]
    fn join(&mut self, index: u32) {
        let mut index = index;
        let Block { prev, next, .. } = self.blocks[index];
        let joins_next = next != NONE && may_join(&self.blocks[index], &self.blocks[next]);
        if prev != NONE && may_join(&self.blocks[prev], &self.blocks[index]) {
            self.unlink(prev);
            self.absorb(prev, index);
            index = prev;
        } else if joins_next && self.blocks[next].state == State::Free && self.grow_down(next, index) {
            return;
        }
        // The first join may have given the block an owner that the next one does not share.
        if joins_next && may_join(&self.blocks[index], &self.blocks[next]) {
            self.unlink(next);
            self.absorb(index, next);
        }
        self.link(index);
    }

    /// Lets a free block take in its lower neighbour without leaving its list; false if it would be in another one then.
    #[inline]
    fn grow_down(&mut self, index: u32, lower: u32) -> bool {
        let Block { offset, bytes, prev, owner, stamp, region, .. } = self.blocks[lower];
        let block = &mut self.blocks[index];
        if owner != block.owner || !is_same_class(block.bytes, block.bytes + bytes) {
            return false;
        }
        block.offset = offset;
        block.bytes += bytes;
        block.prev = prev;
        block.stamp = block.stamp.max(stamp);
        if prev == NONE {
            self.regions[region as usize].first = index;
        } else {
            self.blocks[prev].next = index;
        }
        self.blocks.remove(lower);
        true
    }

    /// Replaces an unlinked block by pieces that tile it. Free and bare ones are joined with the neighbours outside; no two pieces may be joinable.
    pub(crate) fn replace(&mut self, index: u32, pieces: &[Piece]) -> Vec<u32> {
        let whole = self.blocks[index];
        let mut made = Vec::with_capacity(pieces.len());
        let mut at = whole.offset;
        for piece in pieces {
            assert!(piece.end > at && piece.end <= whole.end(), "a piece to {} in {whole:?}", piece.end);
            let number = match made.last() {
                None => index,
                Some(last) => self.insert_unlinked_after(*last, Block { offset: at, ..whole }),
            };
            let block = &mut self.blocks[number];
            block.bytes = piece.end - at;
            (block.state, block.owner, block.stamp) = (piece.state, piece.owner, piece.stamp);
            made.push(number);
            at = piece.end;
        }
        assert!(at == whole.end(), "pieces end at {at}, not at {}", whole.end());
        for number in &made {
            match self.blocks[*number].state {
                State::Free => self.release(*number),
                State::Bare => self.lay_bare(*number),
                _ => (),
            }
        }
        made
    }

    /// Cuts `[start, end)` out of a block as a block of its own, which is left unlinked and [`State::Moving`].
    pub(crate) fn carve(&mut self, index: u32, start: u64, end: u64) -> u32 {
        self.unlink(index);
        let whole = self.blocks[index];
        assert!(
            whole.offset <= start && start < end && end <= whole.end(),
            "{start}..{end} out of {whole:?}"
        );
        let mut middle = index;
        if whole.offset < start {
            self.blocks[index].bytes = start - whole.offset;
            middle = self
                .insert_unlinked_after(index, Block { offset: start, bytes: whole.end() - start, ..whole });
            self.link(index);
        }
        if end < whole.end() {
            self.blocks[middle].bytes = end - start;
            let rest = Block { offset: end, bytes: whole.end() - end, ..whole };
            self.insert_after(middle, rest);
        }
        self.blocks[middle].state = State::Moving;
        middle
    }

    /// Joins two neighbours; the second one's record is given up.
    #[inline]
    pub(crate) fn absorb(&mut self, left: u32, right: u32) {
        let Block { bytes, stamp, next, owner, .. } = self.blocks[right];
        let block = &mut self.blocks[left];
        block.bytes += bytes;
        block.next = next;
        // Memory of nobody is free of any work: only the stamp of the other part says what is to be waited for.
        block.stamp = match (block.owner, owner) {
            (NOBODY, NOBODY) => block.stamp.max(stamp),
            (NOBODY, _) => stamp,
            (_, NOBODY) => block.stamp,
            _ => block.stamp.max(stamp),
        };
        if block.owner == NOBODY {
            block.owner = owner;
        }
        if next != NONE {
            self.blocks[next].prev = left;
        }
        self.blocks.remove(right);
    }

    /// The free lists of an owner and a heap.
    pub(crate) fn bins(&self, owner: usize, heap: Heap) -> &Bins {
        &self.bins[owner][heap.index()]
    }

    /// The longest free block.
    pub(crate) fn largest_free(&self) -> u64 {
        self.bins.iter().flatten().map(|bins| bins.largest(&self.blocks)).max().unwrap_or(0)
    }

    /// Takes a free or bare block out of its list.
    #[inline(never)]
    pub(crate) fn unlink(&mut self, index: u32) {
        let Block { state, owner, heap, region, offset, .. } = self.blocks[index];
        match state {
            State::Free => {
                self.bins[owner as usize][heap.index()].remove(&mut self.blocks, index);
            }
            State::Bare => {
                self.bare.remove(&(heap, region, offset));
            }
            _ => (),
        }
    }

    #[inline(never)]
    fn link(&mut self, index: u32) {
        self.link_as(index, self.blocks[index].state);
    }

    /// As [`link`](Core::link), for a state that is known.
    #[inline(always)]
    fn link_as(&mut self, index: u32, state: State) {
        let Block { owner, heap, region, offset, .. } = self.blocks[index];
        match state {
            State::Free => {
                self.bins[owner as usize][heap.index()].insert(&mut self.blocks, index);
            }
            State::Bare => {
                self.bare.insert((heap, region, offset), index);
            }
            _ => (),
        }
    }

    /// The stream's own memory, or nobody's: the shorter of both.
    #[inline]
    fn find_own(&self, request: &Request) -> Option<u32> {
        let bytes = request.bytes;
        let own = self.bins[request.owner as usize][request.heap.index()].find(&self.blocks, bytes, |_| true);
        let nobodys = &self.bins[NOBODY as usize][request.heap.index()];
        if nobodys.is_empty() {
            return own;
        }
        let free = nobodys.find(&self.blocks, bytes, |_| true);
        let length = |index: Option<u32>| index.map_or(u64::MAX, |index| self.blocks[index].bytes);
        if length(free) < length(own) { free } else { own }
    }

    /// Memory of another stream whose work on it is known to be done.
    fn find_completed(&self, request: &Request) -> Option<u32> {
        let others = (1..self.streams.len()).filter(|owner| *owner != request.owner as usize);
        let found = others.filter_map(|owner| {
            let completed = self.streams[owner].completed;
            let bins = &self.bins[owner][request.heap.index()];
            bins.find(&self.blocks, request.bytes, |block| block.stamp <= completed)
        });
        found.min_by_key(|index| (self.blocks[*index].bytes, self.blocks[*index].offset))
    }

    fn insert_after(&mut self, index: u32, block: Block) -> u32 {
        let new = self.insert_unlinked_after(index, block);
        self.link(new);
        new
    }

    fn insert_unlinked_after(&mut self, index: u32, block: Block) -> u32 {
        let next = self.blocks[index].next;
        let new = self.blocks.insert(Block { prev: index, next, ..block });
        self.blocks[index].next = new;
        if next != NONE {
            self.blocks[next].prev = new;
        }
        new
    }
}

/// A part of a block that [`Core::replace`] makes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) end: u64,
    pub(crate) state: State,
    pub(crate) owner: u16,
    pub(crate) stamp: u64,
}

/// Whether two neighbours are to be one block.
pub(crate) fn may_join(a: &Block, b: &Block) -> bool {
    match (a.state, b.state) {
        (State::Bare, State::Bare) => true,
        (State::Free, State::Free) => a.owner == b.owner || a.owner == NOBODY || b.owner == NOBODY,
        _ => false,
    }
}
