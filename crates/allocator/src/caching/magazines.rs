//! Which thread has which [`Magazine`], and when there are any.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::block::State;
use super::core::{Core, Request};
use super::magazine::{MAGAZINES_MAX, Magazine, Slot, SlotState, magazine_of};
use super::settings::Magazines as When;
use crate::sync::{Apart, Lock, thread_number};

/// Magazines of a stream: threads whose numbers agree in the last bits share one.
const THREADS: usize = 8;
/// The first streams have magazines, further ones none.
const OWNERS_MAX: usize = MAGAZINES_MAX / THREADS;

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

    /// Hands out a block that the calling thread gave back on this stream.
    #[inline]
    pub(crate) fn take(&self, request: &Request) -> Option<Slot> {
        let shelf = self.shelves.get()?.get(request.owner as usize)?.get()?;
        shelf[thread_number() % THREADS].lock().take(request).copied()
    }

    /// Takes back what one of these handed out, if it has room for it; false: ask the books.
    #[inline]
    pub(crate) fn give(&self, generation: u64) -> bool {
        self.of(generation).is_some_and(|magazine| magazine.lock().give(generation))
    }

    /// Lends a block of the books to the calling thread's magazine instead of putting it among the free ones; false if it does not take it.
    #[inline]
    pub(crate) fn lend(&self, core: &mut Core, index: u32) -> bool {
        match self.shelves.get() {
            None => false,
            Some(shelves) => lend_to(shelves, core, index),
        }
    }

    /// Lets the books have a block that is handed out.
    pub(crate) fn return_used(&self, core: &mut Core, generation: u64) {
        if let Some(slot) = self.of(generation).and_then(|magazine| magazine.lock().remove(generation)) {
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
        let lent = core.blocks.iter().filter(|(_, block)| block.state == State::Lent);
        if found.iter().copied().eq(lent.map(|(index, _)| index)) {
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
        let shelf = self.shelves.get()?.get(number / THREADS)?.get()?;
        Some(&shelf[number % THREADS])
    }

    fn each(&self) -> impl Iterator<Item = &Lock<Magazine>> {
        let shelves = self.shelves.get().into_iter().flatten();
        shelves.filter_map(OnceLock::get).flatten().map(|magazine| &**magazine)
    }
}

fn lend_to(shelves: &[OnceLock<Shelf>], core: &mut Core, index: u32) -> bool {
    let owner = core.blocks[index].owner as usize;
    let Some(shelf) = shelves.get(owner) else { return false };
    let new = |thread| Apart::new(Lock::new_watched(Magazine::new(owner * THREADS + thread)));
    let shelf = shelf.get_or_init(|| (0..THREADS).map(new).collect());
    core.lend(index, &mut shelf[thread_number() % THREADS].lock())
}

impl Core {
    /// Puts a block that was given back into a magazine; false if it does not take it.
    ///
    /// It stays counted as handed out until it comes back, so that no peak misses any of its bytes.
    fn lend(&mut self, index: u32, magazine: &mut Magazine) -> bool {
        let bytes = self.blocks[index].bytes;
        while let Some(other) = magazine.displace(bytes) {
            self.take_back(other);
        }
        if !magazine.has_room(bytes) {
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
        true
    }

    /// Takes everything back that a magazine has, and counts what it did.
    fn recall(&mut self, magazine: &mut Magazine) {
        let (slots, served) = magazine.drain();
        self.counts.add_served(&served);
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
        self.stamp(index);
        let block = &self.blocks[index];
        self.counts.free(block.heap, block.bytes, block.requested());
        self.release(index);
    }

    /// Notes in the books what a magazine handed out.
    fn adopt(&mut self, slot: &Slot) {
        let block = &mut self.blocks[slot.block];
        let before = block.requested();
        block.state = State::Used;
        (block.generation, block.tag, block.slack) = (slot.generation, slot.tag, slot.slack);
        self.counts.relabel(block.heap, before, block.requested());
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
