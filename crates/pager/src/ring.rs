use std::collections::BTreeSet;

use crate::plan::Plan;
use crate::slots::{Slot, Slots};

/// Which part of the ring is in use: pure arithmetic on positions in the endless stream of streamed visits.
///
/// Streamed visits are numbered on from 0 through all cycles. Visit n has its bytes at a position that only grows; the ring holds a position at its remainder
/// by the ring's size. A visit's bytes may be overwritten when it is released, and those of every visit before it are free then, too.
#[derive(Debug)]
pub(crate) struct Ring {
    slots: Vec<Slot>,
    ring_bytes: u64,
    cycle_bytes: u64,
    /// How many streamed visits were leased.
    leased: u64,
    /// Those of them that are not released yet.
    held: BTreeSet<u64>,
}

impl Ring {
    pub(crate) fn new(plan: &Plan) -> Self {
        let Slots { list, cycle_bytes, .. } = plan.slots();
        Self {
            slots: list.clone(),
            ring_bytes: plan.ring_bytes(),
            cycle_bytes: *cycle_bytes,
            leased: 0,
            held: BTreeSet::new(),
        }
    }

    /// The slot of a visit, the same in every cycle.
    pub(crate) fn slot(&self, visit: u64) -> usize {
        usize::try_from(visit % self.slots.len() as u64).unwrap_or(usize::MAX)
    }

    /// Where in the ring a visit's bytes start; they may go on behind its end, where it begins once more.
    pub(crate) fn offset(&self, visit: u64) -> u64 {
        self.position(visit) % self.ring_bytes
    }

    /// Whether a visit's bytes may be copied to the ring, if `oldest` is the first visit that is not released: nothing from there on is
    /// where they go.
    pub(crate) fn has_room_above(&self, visit: u64, oldest: u64) -> bool {
        let end = self.position(visit) + self.slots[self.slot(visit)].bytes;
        end <= self.position(oldest) + self.ring_bytes
    }

    /// The first visit whose bytes are still needed: held, or not leased yet.
    pub(crate) fn oldest(&self) -> u64 {
        self.held.first().copied().unwrap_or(self.leased)
    }

    /// The number that the next streamed lease has.
    pub(crate) const fn next(&self) -> u64 {
        self.leased
    }

    pub(crate) fn lease(&mut self) -> u64 {
        let visit = self.leased;
        self.leased += 1;
        self.held.insert(visit);
        visit
    }

    pub(crate) fn release(&mut self, visit: u64) {
        let was_held = self.held.remove(&visit);
        assert!(was_held, "streamed visit {visit} released twice");
    }

    /// How many streamed leases are held, and the bytes of the ring from the oldest of them on.
    pub(crate) fn held(&self) -> (usize, u64) {
        (self.held.len(), self.position(self.leased) - self.position(self.oldest()))
    }

    fn position(&self, visit: u64) -> u64 {
        let cycle = visit / self.slots.len() as u64;
        cycle * self.cycle_bytes + self.slots[self.slot(visit)].position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three visits of 3, 2 and 4 blocks in a ring of 6, with gaps that make two turns of a cycle.
    fn ring() -> Ring {
        let slot = |position, bytes| Slot { position, bytes };
        let slots = vec![slot(0, 3), slot(4, 2), slot(7, 4)];
        Ring { slots, ring_bytes: 6, cycle_bytes: 12, leased: 0, held: BTreeSet::new() }
    }

    fn has_room(ring: &Ring, visit: u64) -> bool {
        ring.has_room_above(visit, ring.oldest())
    }

    #[test]
    fn visits_have_the_same_place_in_every_cycle() {
        let ring = ring();
        let offsets: Vec<u64> = (0..6).map(|visit| ring.offset(visit)).collect();
        assert_eq!(offsets, [0, 4, 1, 0, 4, 1]);
    }

    #[test]
    fn room_comes_with_the_release_of_what_was_there() {
        let mut ring = ring();
        assert_eq!([0, 1, 2, 3].map(|visit| has_room(&ring, visit)), [true, true, false, false]);
        let first = ring.lease();
        assert!(!has_room(&ring, 2), "the first is held where the third goes");
        ring.release(first);
        assert!(
            !has_room(&ring, 2),
            "position 10, the last of the third, lies on position 4, the first of the second"
        );
        let second = ring.lease();
        ring.release(second);
        assert!(has_room(&ring, 2));
        assert!(!has_room(&ring, 3), "12 to 15 lies on 7 to 9");
    }

    #[test]
    fn a_visit_released_early_waits_for_those_before_it() {
        let mut ring = ring();
        let (first, second) = (ring.lease(), ring.lease());
        assert_eq!(ring.held(), (2, 7));
        ring.release(second);
        assert_eq!((ring.oldest(), has_room(&ring, 2)), (first, false));
        ring.release(first);
        assert_eq!((ring.oldest(), has_room(&ring, 2)), (2, true));
    }
}
