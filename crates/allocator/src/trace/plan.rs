//! Where every buffer of a known sequence goes, found before it runs.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{Op, Trace};
use crate::ALIGNMENT_BYTES;
use crate::arena::Heap;

/// Offsets for a whole sequence of requests: each request's place in one arena, and how long that is.
///
/// Several orders are tried, the longest or the largest first, and a simulation of best fit, until the arena is as long as what is alive at most, but for half a
/// thousandth; the shortest one is kept, after a sweep over it has shown that no two buffers meet.
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
pub(crate) struct Life {
    pub(crate) bytes: u64,
    pub(crate) birth: u32,
    pub(crate) death: u32,
}

/// Requests up to this size are placed among themselves by best fit: they are many, and little of the whole.
const CRUMB_BYTES_MAX: u64 = 64 << 10;
/// Parts of the time into which buffers are sorted, so that few have to be looked at: finer ones for buffers that live shorter.
const PARTS: [u32; 3] = [256, 32, 4];
/// An arena that is longer than what is alive at most by less than this share is not sought further: in whole pages the two are mostly the same.
const ENOUGH: u64 = 2000;

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
            if best.bytes <= bound + bound / ENOUGH {
                break;
            }
            let plan = greedy(&lives, order);
            if plan.bytes < best.bytes {
                best = plan;
            }
        }
        assert!(is_sound(&best.slots, &lives), "a plan of {} buffers overlaps", lives.len());
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
}

/// Sweeps over the time and looks for two living buffers that meet.
pub(crate) fn is_sound(slots: &[Slot], lives: &[Life]) -> bool {
    let mut events: Vec<(u32, bool, usize)> = Vec::with_capacity(2 * lives.len());
    for (index, life) in lives.iter().enumerate() {
        events.extend([(life.birth, true, index), (life.death, false, index)]);
    }
    // Ends before births at the same position.
    events.sort_unstable_by_key(|(at, is_birth, index)| (*at, *is_birth, *index));
    let mut alive: BTreeMap<u64, u64> = BTreeMap::new();
    events.into_iter().all(|(_, is_birth, index)| {
        let Slot { offset, bytes } = slots[index];
        if !is_birth {
            return alive.remove(&offset).is_some();
        }
        let before = alive.range(..offset).next_back().is_none_or(|(_, end)| *end <= offset);
        let after = alive.range(offset..).next().is_none_or(|(start, _)| *start >= offset + bytes);
        before && after && alive.insert(offset, offset + bytes).is_none()
    })
}

pub(crate) fn lives(trace: &Trace) -> Vec<Life> {
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

pub(crate) fn live_peak<'a>(lives: impl IntoIterator<Item = &'a Life>) -> u64 {
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

fn end(lives: &[Life]) -> u32 {
    lives.iter().map(|life| life.death).max().unwrap_or(0)
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

pub(crate) type Order = fn(&Life) -> (Reverse<u128>, Reverse<u64>, u32);

/// Largest first; largest product of size and duration first; longest duration first.
pub(crate) const ORDERS: [Order; 3] = [
    |life| (Reverse(u128::from(life.bytes)), Reverse(life.duration()), life.birth),
    |life| (Reverse(u128::from(life.bytes) * u128::from(life.duration())), Reverse(life.bytes), life.birth),
    |life| (Reverse(u128::from(life.duration())), Reverse(life.bytes), life.birth),
];

impl Life {
    pub(crate) fn duration(&self) -> u64 {
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
    let mut placed = Placed::new(end(lives));
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

/// What was placed: for each part of the time, in coarse and in fine parts, what lives in it, by offset.
pub(crate) struct Placed {
    levels: Vec<Level>,
}

struct Level {
    part_length: u32,
    parts: Vec<Vec<Taken>>,
}

#[derive(Clone, Copy)]
struct Taken {
    offset: u64,
    end: u64,
    birth: u32,
    death: u32,
}

impl Placed {
    /// Nothing, of a time that ends before `end`.
    pub(crate) fn new(end: u32) -> Self {
        let level = |parts: u32| {
            let part_length = end.div_ceil(parts).max(1);
            Level { part_length, parts: vec![Vec::new(); (end / part_length + 1) as usize] }
        };
        Self { levels: PARTS.map(level).into() }
    }

    /// The lowest offset at which a buffer meets nothing that was placed.
    pub(crate) fn lowest(&self, life: &Life) -> u64 {
        let is_fine = |level: &&Level| level.parts_of(life).count() <= 2;
        let level = self.levels.iter().find(is_fine).or(self.levels.last());
        match level.map(|level| &level.parts[level.parts_of(life)]) {
            None | Some([]) => 0,
            Some([part]) => lowest_in_part(part, life),
            Some(parts) => lowest_in_parts(parts, life),
        }
    }

    /// The start of the shortest gap between what was placed that holds a buffer, the lowest among equals; behind all if there is none.
    pub(crate) fn best_fit(&self, life: &Life) -> u64 {
        let parts = self.levels.first().map_or(&[][..], |level| &level.parts[level.parts_of(life)]);
        let meeting = parts.iter().flatten().filter(|taken| taken.meets(life));
        let mut taken: Vec<(u64, u64)> = meeting.map(|taken| (taken.offset, taken.end)).collect();
        taken.sort_unstable();
        let (mut top, mut best) = (0, None);
        for (offset, end) in taken {
            let length = offset.saturating_sub(top);
            if length >= life.bytes && best.is_none_or(|(shortest, _)| length < shortest) {
                best = Some((length, top));
            }
            top = top.max(end);
        }
        best.map_or(top, |(_, start)| start)
    }

    pub(crate) fn insert(&mut self, life: &Life, offset: u64) {
        let taken = Taken { offset, end: offset + life.bytes, birth: life.birth, death: life.death };
        for level in &mut self.levels {
            let parts = level.parts_of(life);
            level.parts[parts].iter_mut().for_each(|part| insert_sorted(part, taken));
        }
    }
}

impl Level {
    fn parts_of(&self, life: &Life) -> std::ops::RangeInclusive<usize> {
        let last = life.death.max(life.birth + 1) - 1;
        (life.birth / self.part_length) as usize..=(last / self.part_length) as usize
    }
}

impl Taken {
    fn meets(&self, life: &Life) -> bool {
        self.birth < life.death && life.birth < self.death
    }
}

fn lowest_in_part(part: &[Taken], life: &Life) -> u64 {
    let mut top = 0;
    for taken in part.iter().filter(|taken| taken.meets(life)) {
        if taken.offset >= top + life.bytes {
            break;
        }
        top = top.max(taken.end);
    }
    top
}

/// As [`lowest_in_part`], over several parts at once; what lives in two of them comes twice, which changes nothing.
fn lowest_in_parts(parts: &[Vec<Taken>], life: &Life) -> u64 {
    let mut rests: Vec<_> =
        parts.iter().map(|part| part.iter().filter(|taken| taken.meets(life)).peekable()).collect();
    let mut top = 0;
    loop {
        let heads = rests.iter_mut().filter_map(|rest| Some((rest.peek()?.offset, rest)));
        let Some(taken) = heads.min_by_key(|(offset, _)| *offset).and_then(|(_, rest)| rest.next()) else {
            return top;
        };
        if taken.offset >= top + life.bytes {
            return top;
        }
        top = top.max(taken.end);
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
                assert!(is_sound(&greedy(&lives, order).slots, &lives));
            }
        }
    }

    /// The plain way: every buffer that was placed is looked at.
    fn lowest_of_all(placed: &[Taken], life: &Life) -> u64 {
        let mut meeting: Vec<Taken> = placed.iter().filter(|taken| taken.meets(life)).copied().collect();
        meeting.sort_by_key(|taken| taken.offset);
        lowest_in_part(&meeting, life)
    }

    #[test]
    fn parts_of_the_time_change_nothing() {
        let mut rng = Rng::from_env(7);
        for _ in 0..20 {
            let lives = lives(&random(&mut rng, 600));
            let (mut parts, mut all) = (Placed::new(end(&lives)), Vec::new());
            for life in &lives {
                let offset = parts.lowest(life);
                assert_eq!(offset, lowest_of_all(&all, life), "{life:?}");
                parts.insert(life, offset);
                all.push(Taken { offset, end: offset + life.bytes, birth: life.birth, death: life.death });
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
        assert!(!is_sound(&plan.slots, &lives));
    }
}
