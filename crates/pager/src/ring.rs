use std::collections::BTreeSet;

use crate::plan::{Plan, Slot};

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
        Self {
            slots: plan.slots().to_vec(),
            ring_bytes: plan.ring_bytes(),
            cycle_bytes: plan.cycle_bytes(),
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
