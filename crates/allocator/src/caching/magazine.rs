use super::block::{Heap, NONE};
use super::core::{Given, Request};
use super::counts::Served;
use super::kept::{PLACES, place};

/// Free blocks of one size.
const DEPTH_MAX: u32 = 16;
/// Bytes that lie free in one magazine of each heap: four of the largest blocks of the small one; blocks of up to 32 MiB of the large one.
const FREE_BYTES_MAX: [u64; 2] = [4 << 20, 32 << 20];

/// Marks the generations that magazines give out. Below it are the number of the magazine, that of the slot, and a count.
const MARK: u64 = 1 << 63;
const SLOT_BITS: u32 = 10;
const COUNT_BITS: u32 = 43;
/// Requests that one slot serves: a quarter of a year of a million a second. It is not used any more then, so that no generation ever comes again.
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const SLOTS_MAX: usize = 1 << SLOT_BITS;
pub(crate) const MAGAZINES_MAX: usize = 1 << (u64::BITS - 1 - SLOT_BITS - COUNT_BITS);

/// Blocks of one stream and one heap that some threads hand out and take back among themselves, without the lock of the books.
///
/// To the books all of them are lent ([`State::Lent`](super::block::State)), whether they are handed out or not; what is known of each is in its slot. The books
/// take them back, and count what was done meanwhile, before they say anything or miss anything: see [`Core::recall`](super::core::Core).
#[derive(Debug)]
pub(crate) struct Magazine {
    number: u64,
    heap: Heap,
    slots: Vec<Slot>,
    /// First vacant slot; they are chained by `next`.
    vacant: u32,
    places: [Place; PLACES],
    free_bytes: u64,
    served: Served,
}

/// Free blocks of one size, chained by `next`.
#[derive(Clone, Copy, Debug)]
struct Place {
    bytes: u64,
    first: u32,
    count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotState {
    Vacant,
    Free,
    Used,
}

/// A block that is lent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    /// Of the handle that it was last handed out by.
    pub(crate) generation: u64,
    pub(crate) address: u64,
    pub(crate) bytes: u64,
    /// Number of its record.
    pub(crate) block: u32,
    /// Bytes that were not asked for.
    pub(crate) slack: u32,
    next: u32,
    pub(crate) tag: u16,
    pub(crate) state: SlotState,
}

/// The number of the magazine that gave out a generation, if one did.
#[inline]
pub(crate) const fn magazine_of(generation: u64) -> Option<usize> {
    if generation & MARK == 0 {
        return None;
    }
    Some(((generation & !MARK) >> (SLOT_BITS + COUNT_BITS)) as usize)
}

#[inline]
const fn slot_of(generation: u64) -> usize {
    (generation >> COUNT_BITS) as usize & (SLOTS_MAX - 1)
}

impl Magazine {
    pub(crate) fn new(number: usize, heap: Heap) -> Self {
        assert!(number < MAGAZINES_MAX, "magazine {number} of {MAGAZINES_MAX}");
        Self {
            number: number as u64,
            heap,
            slots: Vec::new(),
            vacant: NONE,
            places: [Place { bytes: 0, first: NONE, count: 0 }; PLACES],
            free_bytes: 0,
            served: Served::default(),
        }
    }

    /// Of which heap its blocks are.
    pub(crate) const fn heap(&self) -> Heap {
        self.heap
    }

    /// Hands out a block of exactly this size.
    #[inline]
    pub(crate) fn take(&mut self, request: &Request) -> Option<Given> {
        let place = &mut self.places[place(request.bytes)];
        if place.bytes != request.bytes || place.first == NONE {
            return None;
        }
        let slot = &mut self.slots[place.first as usize];
        place.first = slot.next;
        place.count -= 1;
        self.free_bytes -= request.bytes;
        slot.state = SlotState::Used;
        // Below the slot's number in the word: `put` and `give` refuse those that have no next one.
        let generation = slot.generation + 1;
        slot.generation = generation;
        // Below the alignment.
        slot.slack = (request.bytes - request.requested) as u32;
        slot.tag = request.tag;
        let given = Given { index: slot.block, address: slot.address, generation };
        self.served.add(request.bytes, request.requested);
        Some(given)
    }

    /// Takes a block back that this magazine handed out; false if it has no room for it, or if it did not hand it out.
    #[inline]
    pub(crate) fn give(&mut self, generation: u64) -> bool {
        let index = slot_of(generation);
        let Some(slot) = self.slots.get_mut(index) else { return false };
        if slot.generation != generation || slot.state != SlotState::Used || is_last(generation) {
            return false;
        }
        let place = &mut self.places[place(slot.bytes)];
        let is_other = place.bytes != slot.bytes && place.count > 0;
        if is_other || place.count == DEPTH_MAX || self.free_bytes + slot.bytes > free_bytes_max(self.heap) {
            return false;
        }
        slot.state = SlotState::Free;
        slot.next = if place.count > 0 { place.first } else { NONE };
        *place = Place { bytes: slot.bytes, first: index as u32, count: place.count + 1 };
        self.free_bytes += slot.bytes;
        true
    }

    /// Whether an empty one has room for a block of this size.
    pub(crate) const fn can_hold(&self, bytes: u64) -> bool {
        bytes <= free_bytes_max(self.heap)
    }

    /// Takes a free block out that another size's place is needed for; its record's number.
    pub(crate) fn displace(&mut self, bytes: u64) -> Option<u32> {
        let place = &mut self.places[place(bytes)];
        if place.bytes == bytes || place.count == 0 {
            return None;
        }
        let index = place.first;
        let slot = self.slots[index as usize];
        place.first = slot.next;
        place.count -= 1;
        self.free_bytes -= slot.bytes;
        self.vacate(index);
        Some(slot.block)
    }

    /// Whether blocks of this size are wanted, after [`displace`](Magazine::displace): large ones only if the last one of their place was of this size too.
    ///
    /// Large blocks of sizes that do not come again would only be missed: the books take back all that is lent when they find no room.
    pub(crate) fn expects(&mut self, bytes: u64) -> bool {
        let place = &mut self.places[place(bytes)];
        let is_known = place.bytes == bytes;
        if !is_known {
            *place = Place { bytes, first: NONE, count: 0 };
        }
        is_known || self.heap == Heap::Small
    }

    /// Whether there is room for one more free block of this size.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.places[place(bytes)].count < DEPTH_MAX && self.free_bytes + bytes <= free_bytes_max(self.heap)
    }

    /// Whether every slot is taken.
    pub(crate) const fn is_full(&self) -> bool {
        self.vacant == NONE && self.slots.len() == SLOTS_MAX
    }

    /// Adds a free block, for which there is room and a slot.
    pub(crate) fn put(&mut self, address: u64, bytes: u64, block: u32) {
        assert!(!self.is_full() && self.has_room(bytes), "no room for {bytes} bytes");
        let index = self.new_slot();
        let place = &mut self.places[place(bytes)];
        assert!(place.count == 0 || place.bytes == bytes, "{bytes} bytes beside {}", place.bytes);
        let next = if place.count > 0 { place.first } else { NONE };
        let slot = &mut self.slots[index as usize];
        *slot = Slot { address, bytes, block, next, state: SlotState::Free, ..*slot };
        *place = Place { bytes, first: index, count: place.count + 1 };
        self.free_bytes += bytes;
    }

    /// Takes a block out that is handed out.
    pub(crate) fn remove(&mut self, generation: u64) -> Option<Slot> {
        let index = slot_of(generation);
        let slot = *self.slots.get(index)?;
        if slot.generation != generation || slot.state != SlotState::Used {
            return None;
        }
        self.vacate(index as u32);
        Some(slot)
    }

    /// Requests that were served since the last time.
    pub(crate) fn take_served(&mut self) -> Served {
        std::mem::take(&mut self.served)
    }

    /// Takes everything out: the blocks, and what was counted since the last time.
    pub(crate) fn drain(&mut self) -> (Vec<Slot>, Served) {
        let taken: Vec<Slot> = self.iter().copied().collect();
        if !taken.is_empty() {
            for index in (0..self.slots.len()).rev() {
                if self.slots[index].state != SlotState::Vacant {
                    self.vacate(index as u32);
                }
            }
            // Which sizes came back stays known: they will come again.
            self.places.iter_mut().for_each(|place| *place = Place { first: NONE, count: 0, ..*place });
            self.free_bytes = 0;
        }
        (taken, self.take_served())
    }

    /// Every block.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.state != SlotState::Vacant)
    }

    /// Checks that the chains hold exactly the free blocks: for audits.
    pub(crate) fn audit(&self) -> Result<(), String> {
        let mut chained = (0, 0);
        for (number, place) in self.places.iter().enumerate() {
            let mut next = place.first;
            for _ in 0..place.count {
                let Some(slot) = self.slots.get(next as usize) else {
                    return Err(format!("I3: place {number} of magazine {} ends early", self.number));
                };
                if slot.state != SlotState::Free || slot.bytes != place.bytes {
                    return Err(format!("I3: {slot:?} is kept for {} bytes", place.bytes));
                }
                chained = (chained.0 + 1, chained.1 + slot.bytes);
                next = slot.next;
            }
            if next != NONE && place.count > 0 {
                return Err(format!("I3: place {number} of magazine {} goes on", self.number));
            }
        }
        let free = self.iter().filter(|slot| slot.state == SlotState::Free);
        let found = free.fold((0, 0), |(count, bytes), slot| (count + 1, bytes + slot.bytes));
        if found == chained && found.1 == self.free_bytes {
            return Ok(());
        }
        Err(format!("I3: {found:?} free in magazine {}, {chained:?} in its chains", self.number))
    }

    fn new_slot(&mut self) -> u32 {
        if self.vacant != NONE {
            let index = self.vacant;
            self.vacant = self.slots[index as usize].next;
            return index;
        }
        let index = self.slots.len() as u64;
        let generation = MARK | (self.number << SLOT_BITS | index) << COUNT_BITS;
        self.slots.push(Slot {
            generation,
            address: 0,
            bytes: 0,
            block: NONE,
            slack: 0,
            next: NONE,
            tag: 0,
            state: SlotState::Vacant,
        });
        index as u32
    }

    fn vacate(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.state = SlotState::Vacant;
        if !is_last(slot.generation) {
            slot.next = self.vacant;
            self.vacant = index;
        }
    }
}

#[inline]
const fn free_bytes_max(heap: Heap) -> u64 {
    FREE_BYTES_MAX[heap.index()]
}

/// Whether a slot has no generation after this one.
#[inline]
const fn is_last(generation: u64) -> bool {
    generation & COUNT_MAX == COUNT_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ALIGNMENT_BYTES;

    fn request(requested: u64) -> Request {
        let bytes = requested.next_multiple_of(ALIGNMENT_BYTES);
        Request { heap: Heap::of(bytes), bytes, requested, owner: 1, tag: 3 }
    }

    #[test]
    fn a_block_goes_round_and_each_time_has_another_generation() {
        let mut magazine = Magazine::new(5, Heap::Small);
        assert!(magazine.take(&request(1000)).is_none());
        magazine.put(4096, 1024, 7);
        assert!(magazine.take(&request(1025)).is_none(), "another size");
        let mut before = 0;
        for _ in 0..3 {
            let given = magazine.take(&request(1000)).unwrap();
            let slot = magazine.slots[slot_of(given.generation)];
            assert_eq!((given.address, given.index, given.generation), (4096, 7, slot.generation));
            assert_eq!((slot.address, slot.block, slot.slack, slot.tag), (4096, 7, 24, 3));
            assert_eq!((magazine_of(slot.generation), slot.generation > before), (Some(5), true));
            assert!(magazine.take(&request(1000)).is_none(), "handed out twice");
            assert!(!magazine.give(before), "a stale handle");
            assert!(magazine.give(slot.generation));
            assert!(!magazine.give(slot.generation), "given back twice");
            before = slot.generation;
            magazine.audit().unwrap();
        }
        assert_eq!(magazine_of(1 << 62), None);
    }

    #[test]
    fn what_is_drained_is_stale_here() {
        let mut magazine = Magazine::new(0, Heap::Small);
        (0..3).for_each(|block| magazine.put(u64::from(block) * 512, 512, block));
        let held = magazine.take(&request(512)).unwrap().generation;
        let (slots, _) = magazine.drain();
        assert_eq!(slots.iter().filter(|slot| slot.state == SlotState::Free).count(), 2);
        assert_eq!(slots.iter().find(|slot| slot.state == SlotState::Used).unwrap().generation, held);
        assert!(!magazine.give(held) && magazine.remove(held).is_none());
        magazine.put(0, 512, 9);
        let again = magazine.take(&request(512)).unwrap().generation;
        assert!(again != held && !magazine.give(held) && magazine.give(again));
        magazine.audit().unwrap();
    }

    #[test]
    fn there_is_a_most_of_everything() {
        let mut magazine = Magazine::new(0, Heap::Small);
        (0..DEPTH_MAX).for_each(|block| magazine.put(0, 512, block));
        assert!(!magazine.has_room(512) && magazine.has_room(1024));
        let mut bytes = u64::from(DEPTH_MAX) * 512;
        while magazine.has_room(1 << 20) {
            magazine.put(0, 1 << 20, 100);
            bytes += 1 << 20;
        }
        assert!(bytes <= free_bytes_max(Heap::Small) && magazine.free_bytes == bytes);
        let mut magazine = Magazine::new(0, Heap::Small);
        for block in 0..SLOTS_MAX as u32 {
            magazine.put(0, 512, block);
            magazine.take(&request(512)).unwrap();
        }
        assert!(magazine.is_full());
        magazine.audit().unwrap();
        magazine.drain();
        assert!(!magazine.is_full());
    }

    #[test]
    fn large_blocks_are_wanted_at_the_second_sight_of_their_size() {
        let mut magazine = Magazine::new(0, Heap::Large);
        let bytes = 4 << 20;
        assert!(!magazine.expects(bytes) && magazine.expects(bytes));
        (0..8).for_each(|block| magazine.put(0, bytes, block));
        assert!(!magazine.has_room(bytes), "32 MiB lie free");
        let other =
            (1..).map(|units| bytes + units * 512).find(|bytes_| place(*bytes_) == place(bytes)).unwrap();
        assert_eq!(std::iter::from_fn(|| magazine.displace(other)).count(), 8);
        assert!(!magazine.expects(other) && magazine.expects(other) && !magazine.expects(bytes));
        magazine.expects(bytes);
        magazine.put(0, bytes, 9);
        magazine.drain();
        assert!(magazine.expects(bytes), "known also after the books took everything back");
        let mut small = Magazine::new(0, Heap::Small);
        assert!(small.expects(512));
        magazine.audit().unwrap();
    }

    #[test]
    fn a_size_makes_room_for_another_one() {
        let mut magazine = Magazine::new(0, Heap::Small);
        let other = (2..).map(|units| units * 512).find(|bytes| place(*bytes) == place(512)).unwrap();
        magazine.put(0, 512, 1);
        let held = magazine.take(&request(512)).unwrap().generation;
        magazine.put(0, other, 2);
        assert!(!magazine.give(held), "its place is another size's");
        assert_eq!((magazine.displace(other), magazine.displace(512)), (None, Some(2)));
        assert!(magazine.give(held));
        magazine.audit().unwrap();
    }

    #[test]
    fn no_generation_comes_again() {
        let mut magazine = Magazine::new(MAGAZINES_MAX - 1, Heap::Small);
        magazine.put(0, 512, 1);
        magazine.slots[0].generation += COUNT_MAX - 1;
        let last = magazine.take(&request(512)).unwrap().generation;
        assert!(!magazine.give(last), "the books take it");
        assert!(magazine.remove(last).is_some());
        magazine.put(0, 512, 1);
        let next = magazine.take(&request(512)).unwrap().generation;
        assert_eq!((slot_of(last), slot_of(next)), (0, 1));
        assert_eq!(magazine_of(next), Some(MAGAZINES_MAX - 1));
    }
}
