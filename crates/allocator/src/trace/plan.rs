//! Where every buffer of a known sequence goes, found before it runs.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{Op, Trace};
use crate::ALIGNMENT_BYTES;
use crate::arena::Heap;

/// Offsets for a whole sequence of requests: each request's place in one arena, and how long that is.
///
/// Several orders are tried, the longest or the largest first, and a simulation of best fit; the shortest arena is kept, after a sweep
/// over it has shown that no two buffers meet.
///
/// ```
/// use lighterage_allocator::{Op, Plan, Trace};
/// let alloc = |id, bytes| Op::Alloc { id, stream: 0, bytes };
/// let trace = Trace::new([alloc(0, 1024), alloc(1, 512), Op::Free { id: 0 }, alloc(2, 1024), Op::Free { id: 1 }]);
/// let plan = Plan::new(&trace);
/// assert_eq!(plan.bytes(), 1536);
/// assert_eq!(plan.slots()[0].offset, plan.slots()[2].offset);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    slots: Vec<Slot>,
    bytes: u64,
}

/// The place of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// From the arena's first byte.
    pub offset: u64,
    /// Bytes, rounded up to the alignment.
    pub bytes: u64,
}

/// A buffer's size and life, in positions of the trace: alive from the first up to before the last.
#[derive(Clone, Copy, Debug)]
struct Life {
    bytes: u64,
    birth: u32,
    death: u32,
}

/// Requests up to this size are placed among themselves by best fit: they are many, and little of the whole.
const CRUMB_BYTES_MAX: u64 = 64 << 10;
/// Parts of the time into which buffers are sorted, so that few have to be looked at.
const PARTS: u32 = 256;

impl Plan {
    /// Plans a sequence; the streams of its requests count as one.
    ///
    /// # Panics
    /// If the plan that was found overlaps itself: it is checked by a sweep before it is given out.
    #[must_use]
    pub fn new(trace: &Trace) -> Self {
        let lives = lives(trace);
        let bound = live_peak(&lives);
        let mut best = online(&lives);
        for order in ORDERS {
            if best.bytes <= bound {
                break;
            }
            let plan = greedy(&lives, order);
            if plan.bytes < best.bytes {
                best = plan;
            }
        }
        assert!(best.is_sound(&lives), "a plan of {} buffers overlaps", lives.len());
        best
    }

    /// The places, in the order of the requests.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// How long the arena is.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    fn of(slots: Vec<Slot>) -> Self {
        let bytes = slots.iter().map(|slot| slot.offset + slot.bytes).max().unwrap_or(0);
        Self { slots, bytes }
    }

    /// Sweeps over the time and looks for two living buffers that meet.
    fn is_sound(&self, lives: &[Life]) -> bool {
        let mut events: Vec<(u32, bool, usize)> = Vec::with_capacity(2 * lives.len());
        for (index, life) in lives.iter().enumerate() {
            events.extend([(life.birth, true, index), (life.death, false, index)]);
        }
        // Ends before births at the same position.
        events.sort_unstable_by_key(|(at, is_birth, index)| (*at, *is_birth, *index));
        let mut alive: BTreeMap<u64, u64> = BTreeMap::new();
        events.into_iter().all(|(_, is_birth, index)| {
            let Slot { offset, bytes } = self.slots[index];
            if !is_birth {
                return alive.remove(&offset).is_some();
            }
            let before = alive.range(..offset).next_back().is_none_or(|(_, end)| *end <= offset);
            let after = alive.range(offset..).next().is_none_or(|(start, _)| *start >= offset + bytes);
            before && after && alive.insert(offset, offset + bytes).is_none()
        })
    }
}

fn lives(trace: &Trace) -> Vec<Life> {
    let end = u32::try_from(trace.ops().len()).unwrap_or(u32::MAX);
    let mut lives = Vec::new();
    let mut index_of = vec![0; trace.ids()];
    for (at, op) in (0..).zip(trace.ops()) {
        match *op {
            Op::Alloc { id, bytes, .. } => {
                index_of[id as usize] = lives.len();
                let bytes = bytes.max(1).next_multiple_of(ALIGNMENT_BYTES);
                lives.push(Life { bytes, birth: at, death: end });
            }
            Op::Free { id } => lives[index_of[id as usize]].death = at,
        }
    }
    lives
}

fn live_peak(lives: &[Life]) -> u64 {
    let mut changes: Vec<(u32, bool, u64)> = Vec::new();
    for life in lives {
        changes.extend([(life.birth, true, life.bytes), (life.death, false, life.bytes)]);
    }
    changes.sort_unstable();
    let (mut live, mut peak) = (0, 0);
    for (_, is_birth, bytes) in changes {
        live = if is_birth { live + bytes } else { live - bytes };
        peak = peak.max(live);
    }
    peak
}

/// Best fit as it would happen at run time.
fn online(lives: &[Life]) -> Plan {
    let mut slots = vec![Slot { offset: 0, bytes: 0 }; lives.len()];
    best_fit(lives, &(0..lives.len()).collect::<Vec<_>>(), &mut slots);
    Plan::of(slots)
}

/// Places some buffers among themselves by best fit, from offset 0 on.
fn best_fit(lives: &[Life], some: &[usize], slots: &mut [Slot]) {
    let mut heap = Heap::new(1 << 62);
    let mut events: Vec<(u32, bool, usize)> = Vec::with_capacity(2 * some.len());
    for index in some {
        events.extend([(lives[*index].birth, true, *index), (lives[*index].death, false, *index)]);
    }
    events.sort_unstable();
    for (_, is_birth, index) in events {
        let bytes = lives[index].bytes;
        if is_birth {
            // The heap is longer than all buffers together.
            slots[index] = Slot { offset: heap.take(bytes).unwrap_or(0), bytes };
        } else {
            heap.give(slots[index].offset, bytes);
        }
    }
}

type Order = fn(&Life) -> (Reverse<u128>, Reverse<u64>, u32);

/// Largest first; largest product of size and duration first; longest duration first.
const ORDERS: [Order; 3] = [
    |life| (Reverse(u128::from(life.bytes)), Reverse(life.duration()), life.birth),
    |life| (Reverse(u128::from(life.bytes) * u128::from(life.duration())), Reverse(life.bytes), life.birth),
    |life| (Reverse(u128::from(life.duration())), Reverse(life.bytes), life.birth),
];

impl Life {
    fn duration(&self) -> u64 {
        u64::from(self.death - self.birth)
    }
}

/// Places buffers in an order, each at the lowest offset where it meets none that was placed before and lives at the same time. Crumbs come on
/// top of all, among themselves.
fn greedy(lives: &[Life], order: Order) -> Plan {
    let (mut large, crumbs): (Vec<usize>, Vec<usize>) =
        (0..lives.len()).partition(|index| lives[*index].bytes > CRUMB_BYTES_MAX);
    large.sort_unstable_by_key(|index| order(&lives[*index]));
    let mut slots = vec![Slot { offset: 0, bytes: 0 }; lives.len()];
    let mut placed = Placed::new(lives);
    let mut top = 0;
    for index in large {
        let offset = placed.lowest(&lives[index]);
        placed.insert(&lives[index], offset);
        slots[index] = Slot { offset, bytes: lives[index].bytes };
        top = top.max(offset + lives[index].bytes);
    }
    best_fit(lives, &crumbs, &mut slots);
    for index in crumbs {
        slots[index].offset += top;
    }
    Plan::of(slots)
}

/// What was placed, by offset; and the same for each part of the time.
struct Placed {
    part_length: u32,
    parts: Vec<Vec<Taken>>,
    /// Buffers that live through many parts, and all others too.
    all: Vec<Taken>,
}

#[derive(Clone, Copy)]
struct Taken {
    offset: u64,
    end: u64,
    birth: u32,
    death: u32,
}

impl Placed {
    fn new(lives: &[Life]) -> Self {
        let end = lives.iter().map(|life| life.death).max().unwrap_or(0);
        let part_length = (end / PARTS).max(1);
        let count = (end / part_length + 1) as usize;
        Self { part_length, parts: vec![Vec::new(); count], all: Vec::new() }
    }

    fn parts_of(&self, life: &Life) -> std::ops::RangeInclusive<usize> {
        let last = life.death.max(life.birth + 1) - 1;
        (life.birth / self.part_length) as usize..=(last / self.part_length) as usize
    }

    fn lowest(&self, life: &Life) -> u64 {
        let parts = self.parts_of(life);
        let list = if parts.start() == parts.end() { &self.parts[*parts.start()] } else { &self.all };
        let mut top = 0;
        for taken in list {
            if taken.birth < life.death && life.birth < taken.death {
                if taken.offset >= top + life.bytes {
                    break;
                }
                top = top.max(taken.end);
            }
        }
        top
    }

    fn insert(&mut self, life: &Life, offset: u64) {
        let taken = Taken { offset, end: offset + life.bytes, birth: life.birth, death: life.death };
        for part in self.parts_of(life) {
            insert_sorted(&mut self.parts[part], taken);
        }
        insert_sorted(&mut self.all, taken);
    }
}

fn insert_sorted(list: &mut Vec<Taken>, taken: Taken) {
    let place = list.partition_point(|known| known.offset < taken.offset);
    list.insert(place, taken);
}

#[cfg(test)]
mod tests {
    use lighterage_testkit::Rng;

    use super::*;

    fn random(rng: &mut Rng, count: u32) -> Trace {
        let mut alive = Vec::new();
        let mut ops = Vec::new();
        for id in 0..count {
            ops.push(Op::Alloc { id, stream: 0, bytes: rng.below(300_000) });
            alive.push(id);
            while alive.len() > 40 || (rng.below(3) == 0 && !alive.is_empty()) {
                let index = usize::try_from(rng.below(alive.len() as u64)).unwrap();
                ops.push(Op::Free { id: alive.swap_remove(index) });
            }
        }
        Trace::new(ops)
    }

    #[test]
    fn plans_are_sound_and_no_worse_than_best_fit() {
        let mut rng = Rng::from_env(5);
        for _ in 0..50 {
            let trace = random(&mut rng, 300);
            let (plan, lives) = (Plan::new(&trace), lives(&trace));
            assert!(plan.bytes() >= live_peak(&lives) && plan.bytes() <= online(&lives).bytes());
            for order in ORDERS {
                assert!(greedy(&lives, order).is_sound(&lives));
            }
        }
    }

    #[test]
    fn an_overlap_is_seen() {
        let trace = random(&mut Rng::from_env(6), 100);
        let (mut plan, lives) = (Plan::new(&trace), lives(&trace));
        let last = plan.slots.len() - 1;
        let victim = (0..last).rev().find(|index| lives[*index].death > lives[last].birth).unwrap();
        plan.slots[last].offset = plan.slots[victim].offset;
        assert!(!plan.is_sound(&lives));
    }
}
