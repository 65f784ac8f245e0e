//! Where every buffer of a known sequence goes, found before it runs.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};

use super::{Op, Trace};
use crate::ALIGNMENT_BYTES;
use crate::arena::Heap;

/// Offsets for a whole sequence of requests: each request's place in one arena, and how long that is.
///
/// Several orders are tried, the longest or the largest first, and a simulation of best fit, until the arena is as long as what is alive at most, but for half a
/// thousandth; the shortest one is kept, after a sweep over it has shown that no two buffers meet. The orders are tried at once, by a thread each: which one is kept
/// does not depend on which one is done first.
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
/// Births and deaths in a part of the time. With half of them random requests take a tenth longer, with twice as many those of models.
const PART_EVENTS: u32 = 512;
/// The most parts.
const PARTS_MAX: u32 = 1 << 11;
/// Cells of offsets for each range that is in the way: where there are more, ranges are merged instead. Models' crumbs in long arenas are faster so.
const CELLS_PER_RANGE: usize = 4;
/// The share of what is enough by which best fit may miss it and is near it: on traces of models it is, on random ones not.
const NEAR: u64 = 12;
/// From so many buffers on it pays to try orders at once.
const THREADED_MIN: usize = 2000;
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
        let enough = bound + bound / ENOUGH;
        if best.bytes > enough {
            best = Orders::new(&lives).best(best, enough);
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

/// What all orders have in common.
struct Orders<'a> {
    lives: &'a [Life],
    large: Vec<usize>,
    crumbs: Vec<usize>,
    /// Those of the crumbs, among themselves; the others are empty.
    slots: Vec<Slot>,
    crumb_bytes: u64,
}

impl<'a> Orders<'a> {
    fn new(lives: &'a [Life]) -> Self {
        let (large, crumbs): (Vec<usize>, Vec<usize>) =
            (0..lives.len()).partition(|index| lives[*index].bytes > CRUMB_BYTES_MAX);
        let mut slots = vec![Slot { offset: 0, bytes: 0 }; lives.len()];
        best_fit(lives, &crumbs, &mut slots);
        let crumb_bytes = slots.iter().map(|slot| slot.offset + slot.bytes).max().unwrap_or(0);
        Self { lives, large, crumbs, slots, crumb_bytes }
    }

    /// The best of a plan and the orders, up to the first one that is `enough`. Where the plan is near it, the first order mostly is, and is tried alone.
    fn best(&self, mut best: Plan, enough: u64) -> Plan {
        let alone = usize::from(best.bytes < enough + enough / NEAR);
        for orders in [0..alone, alone..ORDERS.len()] {
            for plan in self.all(orders, best.bytes, enough).into_iter().flatten() {
                if best.bytes > enough && plan.bytes < best.bytes {
                    best = plan;
                }
            }
            if best.bytes <= enough {
                break;
            }
        }
        best
    }

    /// What some orders come to; those behind the first one that is `enough` may be left out.
    fn all(&self, orders: Range<usize>, limit: u64, enough: u64) -> Vec<Option<Plan>> {
        // Which order is known to be enough: those behind it need not go on.
        let done = AtomicUsize::new(usize::MAX);
        let try_order = |number: usize| {
            let is_wanted = || done.load(Ordering::Relaxed) >= number;
            let plan = self.greedy(ORDERS[number], limit, is_wanted)?;
            if plan.bytes <= enough {
                done.fetch_min(number, Ordering::Relaxed);
            }
            Some(plan)
        };
        if self.lives.len() < THREADED_MIN || orders.len() == 1 {
            return orders.map(try_order).collect();
        }
        thread::scope(|scope| {
            let threads: Vec<_> = orders.map(|number| scope.spawn(move || try_order(number))).collect();
            let join = |thread: ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        })
    }

    /// Places buffers in an order, each at the lowest offset where it meets none that was placed before and lives at the same time. Crumbs come on
    /// top of all, among themselves. None as soon as the arena would not be shorter than `limit`, or it is not wanted any more.
    fn greedy(&self, order: Order, limit: u64, is_wanted: impl Fn() -> bool) -> Option<Plan> {
        let mut large = self.large.clone();
        large.sort_by_cached_key(|index| order(&self.lives[*index]));
        let mut slots = self.slots.clone();
        let mut placed = Placed::new(end(self.lives));
        let mut top = 0;
        for index in large {
            let life = &self.lives[index];
            let offset = placed.lowest(life);
            top = top.max(offset + life.bytes);
            if top + self.crumb_bytes >= limit || !is_wanted() {
                return None;
            }
            placed.insert(life, offset);
            slots[index] = Slot { offset, bytes: life.bytes };
        }
        for index in &self.crumbs {
            slots[*index].offset += top;
        }
        let plan = Plan::of(slots);
        (plan.bytes < limit).then_some(plan)
    }
}

/// What was placed, by parts of the time.
///
/// A request asks what is taken at any time while it lives. In the parts that it covers wholly all that is there at any time is in its way, and so only the union of it
/// matters, which is short, since buffers are packed. Only in the first and the last of its parts single buffers are looked at, and of these only those that begin or end
/// in the part. Parts are the leaves of a tree, and a buffer is noted at the few nodes that together are all that it covers: whoever looks at a part looks at
/// the nodes above it too.
///
/// Where these ranges are many for the length of the arena, they are not merged but sorted into *cells* of offsets no longer than the buffer: of those that
/// start in a cell only the first start and the last end matter, since no gap between two of them holds the buffer. That has no branch that is hard to foresee.
pub(crate) struct Placed {
    /// A power of two.
    parts: u32,
    part_length: u32,
    /// Buffers that begin or end in a part and do not cover it, by offset.
    some: Vec<Vec<Taken>>,
    /// The root is number 1, the children of `n` are `2n` and `2n + 1`, and the last ones are the parts.
    nodes: Vec<Node>,
    /// Behind all that was placed.
    top: u64,
    /// What a search sorts into: kept for the next one.
    cells: Vec<(u64, u64)>,
}

#[derive(Clone, Default)]
struct Node {
    /// Of buffers that cover it, and not all that is below the node above it.
    whole: Union,
    /// Of these and of all that is noted below.
    any: Union,
}

/// Ranges in order that neither meet nor touch: start and end.
type Union = Vec<(u64, u64)>;

#[derive(Clone, Copy)]
struct Taken {
    offset: u64,
    end: u64,
    birth: u32,
    death: u32,
}

/// What is in the way of a request.
struct Obstacles<'a> {
    unions: [&'a [(u64, u64)]; UNIONS_MAX],
    count: usize,
    some: [&'a [Taken]; 2],
}

/// Two nodes of each layer that are covered, and two above the first and the last part.
const UNIONS_MAX: usize = 4 * (PARTS_MAX.ilog2() as usize + 1);

impl<'a> Obstacles<'a> {
    fn add(&mut self, union: &'a Union) {
        if !union.is_empty() {
            self.unions[self.count] = union;
            self.count += 1;
        }
    }

    fn ranges(&self) -> usize {
        let unions = self.unions[..self.count].iter().map(|union| union.len());
        unions.chain(self.some.map(<[Taken]>::len)).sum()
    }

    /// The lowest offset at which a buffer meets none of them: all are gone through side by side.
    fn lowest(self, life: &Life) -> u64 {
        let Obstacles { mut unions, count, mut some } = self;
        let mut top = 0;
        loop {
            let before = top;
            for union in &mut unions[..count] {
                top = above(union, top, life.bytes);
            }
            for taken in &mut some {
                top = above_those(taken, top, life);
            }
            if top == before {
                return top;
            }
        }
    }

    /// The same by empty cells of `2^shift` bytes, at most the buffer's: the first start and the last end of what starts in each.
    fn lowest_by_cells(&self, life: &Life, shift: u32, cells: &mut [(u64, u64)]) -> u64 {
        let mut note = |start: u64, end: u64| {
            let (first, last) = &mut cells[cell_of(start, shift)];
            *first = start.min(*first);
            *last = end.max(*last);
        };
        for union in &self.unions[..self.count] {
            union.iter().for_each(|(start, end)| note(*start, *end));
        }
        for taken in self.some.iter().copied().flatten().filter(|taken| taken.meets(life)) {
            note(taken.offset, taken.end);
        }
        let mut top = 0;
        for (first, last) in cells {
            // One more than `EMPTY_CELL` is 0: nothing starts there.
            if first.wrapping_add(1) > top + life.bytes {
                break;
            }
            top = top.max(*last);
        }
        top
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "no more cells than ranges of a table in memory, or they are not made"
)]
const fn cell_of(offset: u64, shift: u32) -> usize {
    (offset >> shift) as usize
}

/// A cell in which nothing starts: its first start and its last end.
const EMPTY_CELL: (u64, u64) = (u64::MAX, 0);

/// The parts of a life.
#[derive(Clone, Copy)]
struct Span {
    /// Of all the time.
    parts: usize,
    /// In which it begins, and in which it ends.
    first: usize,
    last: usize,
    /// Whether it covers these two.
    is_whole: [bool; 2],
}

impl Placed {
    /// Nothing, of a time that ends before `end`.
    pub(crate) fn new(end: u32) -> Self {
        let parts = (end / PART_EVENTS).next_power_of_two().clamp(2, PARTS_MAX);
        Self {
            parts,
            part_length: end.div_ceil(parts - 1).max(1),
            some: vec![Vec::new(); parts as usize],
            nodes: vec![Node::default(); 2 * parts as usize],
            top: 0,
            cells: Vec::new(),
        }
    }

    /// The lowest offset at which a buffer meets nothing that was placed.
    pub(crate) fn lowest(&mut self, life: &Life) -> u64 {
        let mut cells = std::mem::take(&mut self.cells);
        let obstacles = self.obstacles(life);
        let shift = life.bytes.max(1).ilog2();
        let count = cell_of(self.top, shift) + 1;
        let lowest = if count <= CELLS_PER_RANGE * obstacles.ranges() {
            cells.clear();
            cells.resize(count, EMPTY_CELL);
            obstacles.lowest_by_cells(life, shift, &mut cells)
        } else {
            obstacles.lowest(life)
        };
        self.cells = cells;
        lowest
    }

    /// The start of the shortest gap between what was placed that holds a buffer, the lowest among equals; behind all if there is none.
    pub(crate) fn best_fit(&self, life: &Life) -> u64 {
        let Obstacles { unions, some, .. } = self.obstacles(life);
        let meeting = some.into_iter().flatten().filter(|taken| taken.meets(life));
        let meeting = meeting.map(|taken| (taken.offset, taken.end));
        let mut taken: Vec<(u64, u64)> = unions.into_iter().flatten().copied().chain(meeting).collect();
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
        let (span, range) = (self.span(life), (offset, taken.end));
        self.top = self.top.max(taken.end);
        for part in span.edges() {
            let some = &mut self.some[part];
            some.insert(some.partition_point(|known| known.offset < offset), taken);
        }
        for node in span.covered() {
            cover(&mut self.nodes[node].whole, range);
            cover(&mut self.nodes[node].any, range);
        }
        for node in span.above() {
            cover(&mut self.nodes[node].any, range);
        }
    }

    fn obstacles(&self, life: &Life) -> Obstacles<'_> {
        let span = self.span(life);
        let mut obstacles = Obstacles { unions: [&[]; UNIONS_MAX], count: 0, some: [&[]; 2] };
        for (part, some) in span.edges().zip(&mut obstacles.some) {
            *some = &self.some[part];
        }
        span.above().for_each(|node| obstacles.add(&self.nodes[node].whole));
        span.covered().for_each(|node| obstacles.add(&self.nodes[node].any));
        obstacles
    }

    fn span(&self, life: &Life) -> Span {
        let end = life.death.max(life.birth + 1);
        let [first, last] = [life.birth, end - 1].map(|at| (at / self.part_length) as usize);
        let length = u64::from(self.part_length);
        let is_whole = |part: usize| {
            u64::from(life.birth) <= part as u64 * length && u64::from(end) >= (part as u64 + 1) * length
        };
        Span { parts: self.parts as usize, first, last, is_whole: [first, last].map(is_whole) }
    }
}

impl Span {
    /// The first and the last part, if it does not cover them.
    fn edges(self) -> impl Iterator<Item = usize> {
        let first = (!self.is_whole[0]).then_some(self.first);
        let last = (!self.is_whole[1] && self.last > self.first).then_some(self.last);
        first.into_iter().chain(last)
    }

    /// The highest nodes with nothing below them that it does not cover.
    fn covered(self) -> impl Iterator<Item = usize> {
        let [first, last] = self.is_whole.map(usize::from);
        let mut low = self.parts + self.first + 1 - first;
        let mut high = self.parts + self.last + last;
        std::iter::from_fn(move || {
            while low < high {
                if low % 2 == 1 {
                    low += 1;
                    return Some(low - 1);
                }
                if high % 2 == 1 {
                    high -= 1;
                    return Some(high);
                }
                (low, high) = (low / 2, high / 2);
            }
            None
        })
    }

    /// The first and the last part and all nodes above them, which are also all nodes above the covered ones: what is above one of those and not covered reaches beyond
    /// the first or the last part.
    fn above(self) -> impl Iterator<Item = usize> {
        let layers = move |part: usize| std::iter::successors(Some(self.parts + part), |node| Some(node / 2));
        let both = layers(self.first).zip(layers(self.last)).take(self.parts.ilog2() as usize + 1);
        both.flat_map(|(left, right)| [Some(left), (right > left).then_some(right)]).flatten()
    }
}

impl Taken {
    fn meets(&self, life: &Life) -> bool {
        self.birth < life.death && life.birth < self.death
    }
}

/// The lowest offset from `top` on at which so many bytes meet nothing of the start of a union, which is left out from then on.
fn above(union: &mut &[(u64, u64)], mut top: u64, bytes: u64) -> u64 {
    while let Some(((start, end), rest)) = union.split_first()
        && *start < top + bytes
    {
        top = top.max(*end);
        *union = rest;
    }
    top
}

/// As [`above`], for those of some buffers that live at the same time.
fn above_those(some: &mut &[Taken], mut top: u64, life: &Life) -> u64 {
    while let Some((taken, rest)) = some.split_first()
        && taken.offset < top + life.bytes
    {
        if taken.meets(life) {
            top = top.max(taken.end);
        }
        *some = rest;
    }
    top
}

/// Adds a range to a union.
fn cover(union: &mut Union, (start, end): (u64, u64)) {
    let first = union.partition_point(|(_, known_end)| *known_end < start);
    match union.get_mut(first) {
        Some((known_start, known_end)) if *known_start <= end => {
            *known_start = start.min(*known_start);
            if end <= *known_end {
                return;
            }
            let behind = union[first + 1..].iter().take_while(|(known_start, _)| *known_start <= end).count();
            union[first].1 = end.max(union[first + behind].1);
            union.drain(first + 1..=first + behind);
        }
        _ => union.insert(first, (start, end)),
    }
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
                let orders = Orders::new(&lives);
                let plan = orders.greedy(order, u64::MAX, || true).unwrap();
                assert!(is_sound(&plan.slots, &lives));
                assert_eq!(orders.greedy(order, plan.bytes, || true), None, "none as short is sought");
                assert_eq!(orders.greedy(order, plan.bytes + 1, || true), Some(plan));
            }
        }
    }

    /// With threads and without, whoever is done first.
    #[test]
    fn the_plan_is_that_of_the_orders_one_after_the_other() {
        let mut rng = Rng::from_env(8);
        for _ in 0..4 {
            let trace = random(&mut rng, 3000);
            let lives = lives(&trace);
            assert!(lives.len() >= THREADED_MIN);
            let (orders, enough) = (Orders::new(&lives), live_peak(&lives) * 21 / 20);
            let mut best = online(&lives);
            for order in ORDERS {
                if best.bytes > enough
                    && let Some(plan) = orders.greedy(order, best.bytes, || true)
                {
                    best = plan;
                }
            }
            for _ in 0..5 {
                assert_eq!(orders.best(online(&lives), enough), best);
            }
        }
    }

    /// The plain way: every buffer that was placed is looked at.
    fn lowest_of_all(placed: &[Taken], life: &Life) -> u64 {
        let mut meeting: Vec<Taken> = placed.iter().filter(|taken| taken.meets(life)).copied().collect();
        meeting.sort_by_key(|taken| taken.offset);
        let mut top = 0;
        for taken in meeting {
            if taken.offset >= top + life.bytes {
                break;
            }
            top = top.max(taken.end);
        }
        top
    }

    fn best_fit_of_all(placed: &[Taken], life: &Life) -> u64 {
        let mut meeting: Vec<Taken> = placed.iter().filter(|taken| taken.meets(life)).copied().collect();
        meeting.sort_by_key(|taken| taken.offset);
        let (mut top, mut gaps) = (0, Vec::new());
        for taken in meeting {
            gaps.push((taken.offset.saturating_sub(top), top));
            top = top.max(taken.end);
        }
        let fits = gaps.into_iter().filter(|(length, _)| *length >= life.bytes);
        fits.min().map_or(top, |(_, start)| start)
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let mut union = Union::new();
        for range in [(10, 20), (40, 50), (60, 70), (20, 30), (12, 15)] {
            cover(&mut union, range);
        }
        assert_eq!(union, [(10, 30), (40, 50), (60, 70)]);
        cover(&mut union, (35, 60));
        assert_eq!(union, [(10, 30), (35, 70)]);
        cover(&mut union, (0, 5));
        cover(&mut union, (5, 100));
        assert_eq!(union, [(0, 100)]);
    }

    #[test]
    fn parts_of_the_time_change_nothing() {
        let mut rng = Rng::from_env(7);
        for _ in 0..20 {
            // Some live long, so that there are parts that they cover wholly.
            let mut lives = lives(&random(&mut rng, 2000));
            let end = end(&lives);
            for life in lives.iter_mut().step_by(7) {
                life.death = (life.death + u32::try_from(rng.below(1500)).unwrap()).min(end);
            }
            let (mut parts, mut all) = (Placed::new(end), Vec::new());
            for life in &lives {
                let offset = parts.lowest(life);
                assert_eq!(offset, lowest_of_all(&all, life), "{life:?}");
                assert_eq!(parts.best_fit(life), best_fit_of_all(&all, life), "{life:?}");
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
