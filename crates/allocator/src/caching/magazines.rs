//! Which thread has which [`Magazine`], and when there are any.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::block::{Block, Heap, State};
use super::core::{Core, Given, Request};
use super::magazine::{MAGAZINES_MAX, Magazine, Slot, SlotState, magazine_of};
use super::settings::Magazines as When;
use crate::sync::{Apart, Lock, thread_number};

/// Magazines of a stream for each heap: threads whose numbers agree in the last bits share one.
const THREADS: usize = 8;
/// Magazines of a stream: first those of the small heap.
const OF_OWNER: usize = Heap::ALL.len() * THREADS;
/// The first streams have magazines, further ones none.
const OWNERS_MAX: usize = MAGAZINES_MAX / OF_OWNER;
/// Bytes of large blocks that are lent at once, handed out or not, in all magazines.
const LENT_BYTES_MAX: u64 = 256 << 20;

/// The magazines of an allocator by stream and thread.
#[derive(Debug)]
pub(crate) struct Magazines {
    when: When,
    /// The first thread that found the books locked.
    waited: AtomicUsize,
    /// By owner.
    shelves: OnceLock<Box<[OnceLock<Shelf>]>>,
}

type Shelf = Box<[Apart<Lock<Magazine>>]>;

impl Magazines {
    pub(crate) fn new(when: When) -> Self {
        let new = Self { when, waited: AtomicUsize::new(0), shelves: OnceLock::new() };
        if when == When::Always {
            new.begin();
        }
        new
    }

    /// Notes that the calling thread found the books locked for its request. From the second thread on there are magazines.
    ///
    /// One thread alone proves nothing: the other may only read statistics, and then placement is to depend on the requests alone.
    #[cold]
    pub(crate) fn note_wait(&self) {
        let me = thread_number();
        let first = self.waited.compare_exchange(0, me, Ordering::Relaxed, Ordering::Relaxed);
        if self.when == When::Contended && first.is_err_and(|other| other != me) {
            self.begin();
        }
    }

    /// Whether there are any.
    #[inline]
    pub(crate) fn have_begun(&self) -> bool {
        self.shelves.get().is_some()
    }

    /// Hands out a block that the calling thread gave back on this stream.
    #[inline]
    pub(crate) fn take(&self, request: &Request) -> Option<Given> {
        let shelf = self.shelves.get()?.get(request.owner as usize)?.get()?;
        shelf[mine(request.heap)].lock().take(request)
    }

    /// Takes back what one of these handed out, if it has room for it; false: ask the books.
    #[inline]
    pub(crate) fn give(&self, generation: u64) -> bool {
        self.of(generation).is_some_and(|magazine| magazine.lock().give(generation))
    }

    /// Lends a block of the books to the calling thread's magazine instead of putting it among the free ones; false if it does not take it.
    pub(crate) fn lend(&self, core: &mut Core, index: u32) -> bool {
        let Block { owner, heap, bytes, .. } = core.blocks[index];
        let Some(shelf) = self.shelves.get().and_then(|shelves| shelves.get(owner as usize)) else {
            return false;
        };
        let first = owner as usize * OF_OWNER;
        let heaps = Heap::ALL.into_iter().flat_map(|heap| [heap; THREADS]);
        let new = |(number, heap)| Apart::new(Lock::new_watched(Magazine::new(number, heap)));
        let shelf = shelf.get_or_init(|| (first..).zip(heaps).map(new).collect());
        let magazine = &shelf[mine(heap)];
        if heap == Heap::Large && core.lent_bytes + bytes > LENT_BYTES_MAX {
            // Not for a block that no magazine would take then.
            if !core.makes_room(bytes, &mut magazine.lock()) {
                return false;
            }
            self.recall(core);
        }
        core.lend(index, &mut magazine.lock())
    }

    /// Lets the books have a block that is handed out, with the requests that were served so far: nothing is present that was not counted as made.
    pub(crate) fn return_used(&self, core: &mut Core, generation: u64) {
        let Some(magazine) = self.of(generation) else { return };
        let mut magazine = magazine.lock();
        if let Some(slot) = magazine.remove(generation) {
            core.counts.add_served(magazine.heap(), &magazine.take_served());
            core.adopt(&slot);
        }
    }

    /// Lets the books have everything: they are whole until their lock is given up.
    #[inline]
    pub(crate) fn recall(&self, core: &mut Core) {
        self.each().for_each(|magazine| core.recall(&mut magazine.lock()));
    }

    /// Checks that what is lent is what the magazines have, and that they are in order.
    pub(crate) fn audit(&self, core: &Core) -> Result<(), String> {
        let mut found = Vec::new();
        for magazine in self.each() {
            let magazine = magazine.lock();
            magazine.audit()?;
            for slot in magazine.iter() {
                let block = &core.blocks[slot.block];
                if block.state != State::Lent
                    || block.bytes != slot.bytes
                    || core.address(block) != slot.address
                {
                    return Err(format!("I3: {slot:?} is not {block:?}"));
                }
                found.push(slot.block);
            }
        }
        found.sort_unstable();
        let lent = || core.blocks.iter().filter(|(_, block)| block.state == State::Lent);
        let bytes: u64 = lent().map(|(_, block)| large_bytes(block)).sum();
        if bytes != core.lent_bytes || bytes > LENT_BYTES_MAX {
            return Err(format!("I6: {bytes} bytes are lent, the books say {}", core.lent_bytes));
        }
        if found.iter().copied().eq(lent().map(|(index, _)| index)) {
            return Ok(());
        }
        Err(format!("I3: lent are {found:?}, and others say so"))
    }

    fn begin(&self) {
        self.shelves.get_or_init(|| (0..OWNERS_MAX).map(|_| OnceLock::new()).collect());
    }

    #[inline]
    fn of(&self, generation: u64) -> Option<&Lock<Magazine>> {
        let number = magazine_of(generation)?;
        let shelf = self.shelves.get()?.get(number / OF_OWNER)?.get()?;
        Some(&shelf[number % OF_OWNER])
    }

    fn each(&self) -> impl Iterator<Item = &Lock<Magazine>> {
        let shelves = self.shelves.get().into_iter().flatten();
        shelves.filter_map(OnceLock::get).flatten().map(|magazine| &**magazine)
    }
}

/// Which of a stream's magazines is the calling thread's.
#[inline]
fn mine(heap: Heap) -> usize {
    heap.index() * THREADS + thread_number() % THREADS
}

impl Core {
    /// Puts a block that was given back into a magazine; false if it does not take it.
    ///
    /// It stays counted as handed out until it comes back, so that no peak misses any of its bytes.
    fn lend(&mut self, index: u32, magazine: &mut Magazine) -> bool {
        let bytes = self.blocks[index].bytes;
        if !self.makes_room(bytes, magazine) {
            return false;
        }
        if magazine.is_full() {
            self.recall(magazine);
        }
        if magazine.is_full() {
            return false;
        }
        magazine.put(self.address(&self.blocks[index]), bytes, index);
        self.blocks[index].state = State::Lent;
        self.lent_bytes += large_bytes(&self.blocks[index]);
        true
    }

    /// Whether a magazine wants one more block of this size and has room for it, once those of another size have left its place.
    fn makes_room(&mut self, bytes: u64, magazine: &mut Magazine) -> bool {
        if !magazine.can_hold(bytes) {
            return false;
        }
        while let Some(other) = magazine.displace(bytes) {
            self.take_back(other);
        }
        magazine.expects(bytes) && magazine.has_room(bytes)
    }

    /// Takes everything back that a magazine has, and counts what it did.
    fn recall(&mut self, magazine: &mut Magazine) {
        let (slots, served) = magazine.drain();
        self.counts.add_served(magazine.heap(), &served);
        for slot in &slots {
            if slot.state == SlotState::Free {
                self.take_back(slot.block);
            } else {
                self.adopt(slot);
            }
        }
    }

    /// Puts a block that is lent among the free ones. Its stamp is that of now, and so not before it was given back.
    fn take_back(&mut self, index: u32) {
        self.lent_bytes -= large_bytes(&self.blocks[index]);
        self.stamp(index);
        self.release(index);
    }

    /// Notes in the books what a magazine handed out.
    fn adopt(&mut self, slot: &Slot) {
        self.lent_bytes -= large_bytes(&self.blocks[slot.block]);
        let block = &mut self.blocks[slot.block];
        let before = block.requested();
        block.state = State::Used;
        (block.generation, block.tag, block.slack) = (slot.generation, slot.tag, slot.slack);
        self.counts.relabel(block.heap, before, block.requested());
    }
}

/// What a block adds to the large bytes that are lent.
const fn large_bytes(block: &Block) -> u64 {
    match block.heap {
        Heap::Small => 0,
        Heap::Large => block.bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_that_waits_proves_nothing() {
        let magazines = Magazines::new(When::Contended);
        (0..3).for_each(|_| magazines.note_wait());
        assert!(magazines.shelves.get().is_none());
        std::thread::scope(|scope| scope.spawn(|| magazines.note_wait()).join().unwrap());
        assert!(magazines.shelves.get().is_some());
    }

    #[test]
    fn there_are_none_where_there_are_to_be_none() {
        let magazines = Magazines::new(When::Never);
        magazines.note_wait();
        std::thread::scope(|scope| scope.spawn(|| magazines.note_wait()).join().unwrap());
        assert!(magazines.shelves.get().is_none());
    }
}
