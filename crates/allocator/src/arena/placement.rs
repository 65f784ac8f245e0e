//! Where the requests of a recording go.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use super::recording::Recording;
use crate::trace::{Life, ORDERS, Placed, Slot, is_sound, live_peak, lives};

/// The place of every request of one part of a [`Recording`], in order, for [`Pool::follow`](crate::Pool::follow).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    slots: Vec<Slot>,
    marks: Vec<Mark>,
    bytes: u64,
    live_bytes: u64,
}

/// How often each order is tried, with what did not fit below put first.
const PROMOTIONS: usize = 8;

/// A place in the program, and how many requests came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    label: &'static str,
    request: usize,
}

impl Placement {
    /// The places, in the order of the requests.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Physical bytes that the part takes: the pages of what it asks for, and of what lives when it begins.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The most bytes alive at once in it: no placement takes less.
    #[must_use]
    pub const fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// How many requests come before the mark of that name which is next after `request` of them, or else before the first one.
    pub(super) fn marked(&self, label: &str, request: usize) -> Option<usize> {
        let mut named = self.marks.iter().filter(|mark| mark.label == label).map(|mark| mark.request);
        named.clone().find(|marked| *marked >= request).or_else(|| named.next())
    }
}

impl Recording {
    /// Finds a place for every request, so that each part takes few pages of that size: one placement for each part, to be followed one after the other.
    ///
    /// What outlives its part is placed first, at the lowest offsets, and then each part around it. For a part best fit is tried, as it would happen at run time, and
    /// several orders; what has the fewest pages is kept. It is a pure function of the recording and the size of a page.
    ///
    /// # Panics
    /// If a placement overlaps itself: it is checked by a sweep before it is given out.
    #[must_use]
    pub fn place(&self, page_bytes: u64) -> Vec<Arc<Placement>> {
        let lives = lives(&self.trace());
        let parts = self.ranges();
        let carried = carried(&lives, &parts);
        let part = |range: &Range<u32>| Part::new(range, &lives, &carried);
        let placed = parts.iter().map(|range| Arc::new(part(range).place(page_bytes, self.marks())));
        placed.collect()
    }

    /// From where to where each part goes. The first one begins at the beginning, the last one never ends.
    fn ranges(&self) -> Vec<Range<u32>> {
        let starts = self.parts();
        let ends = starts.iter().skip(1).copied().chain([u32::MAX]);
        let range =
            |(index, (start, end)): (usize, (&u32, u32))| if index == 0 { 0..end } else { *start..end };
        starts.iter().zip(ends).enumerate().map(range).collect()
    }
}

/// The offsets of those lives that outlive the part in which they begin: those of earlier parts below those of later ones, so that all parts
/// find them together at the bottom.
fn carried(lives: &[Life], parts: &[Range<u32>]) -> Vec<Option<u64>> {
    let part = |life: &Life| parts.partition_point(|part| part.end <= life.birth);
    let outlives = |life: &Life| parts.get(part(life)).is_some_and(|part| life.death >= part.end);
    let mut order: Vec<usize> = (0..lives.len()).filter(|index| outlives(&lives[*index])).collect();
    order.sort_by_key(|index| (part(&lives[*index]), Reverse(lives[*index].bytes), *index));
    let mut placed = Placed::new(end(lives));
    let mut offsets = vec![None; lives.len()];
    for index in order {
        let offset = placed.lowest(&lives[index]);
        placed.insert(&lives[index], offset);
        offsets[index] = Some(offset);
    }
    offsets
}

fn end(lives: &[Life]) -> u32 {
    lives.iter().map(|life| life.death).max().unwrap_or(0)
}

/// What has its place, and what is to find one. Times are those of the part: what it inherits begins at 0, its first op is at 1.
struct Part {
    range: Range<u32>,
    /// Those that begin here, with their offsets where they are carried on.
    born: Vec<(Life, Option<u64>)>,
    /// Those that live when it begins.
    inherited: Vec<(Life, u64)>,
}

impl Part {
    fn new(range: &Range<u32>, lives: &[Life], carried: &[Option<u64>]) -> Self {
        let here = |life: &Life| Life {
            birth: (life.birth + 1).saturating_sub(range.start),
            death: life.death.min(range.end) + 1 - range.start,
            ..*life
        };
        let pairs = || lives.iter().zip(carried.iter().copied());
        let lives_at_start = |life: &Life| life.birth < range.start && life.death >= range.start;
        let inherited = pairs().filter(|(life, _)| lives_at_start(life));
        let born = pairs().filter(|(life, _)| range.contains(&life.birth));
        Self {
            range: range.clone(),
            born: born.map(|(life, offset)| (here(life), offset)).collect(),
            // What lives at the start of a later part has outlived its own.
            inherited: inherited.filter_map(|(life, offset)| Some((here(life), offset?))).collect(),
        }
    }

    fn place(&self, page_bytes: u64, marks: &[(u32, &'static str)]) -> Placement {
        let live_bytes = live_peak(self.lives());
        let (pages, slots) = self.search(page_bytes, live_bytes.div_ceil(page_bytes));
        assert!(self.is_sound(&slots), "a placement of {} buffers overlaps", slots.len());
        let here = |(at, label): &(u32, &'static str)| {
            let request = |at| self.born.partition_point(|(life, _)| life.birth <= at - self.range.start);
            self.range.contains(at).then(|| Mark { label, request: request(*at) })
        };
        let marks = marks.iter().filter_map(here).collect();
        Placement { slots, marks, bytes: pages * page_bytes, live_bytes }
    }

    fn lives(&self) -> impl Iterator<Item = &Life> {
        self.born.iter().map(|(life, _)| life).chain(self.inherited.iter().map(|(life, _)| life))
    }

    /// The best of several orders and of best fit as it would happen at run time, and how many pages it touches; no more are tried once it is `enough`.
    fn search(&self, page_bytes: u64, enough: u64) -> (u64, Vec<Slot>) {
        let measured = |slots: Vec<Slot>| (self.pages(&slots, page_bytes), slots);
        let mut order: Vec<usize> = (0..self.born.len()).collect();
        let mut best = measured(self.greedy(&order, |placed, life| placed.best_fit(life)));
        for by in ORDERS {
            order.sort_by_key(|index| by(&self.born[*index].0));
            for _ in 0..PROMOTIONS {
                if best.0 <= enough {
                    return best;
                }
                let found = measured(self.greedy(&order, Placed::lowest));
                self.promote(&mut order, &found.1, page_bytes);
                if found.0 < best.0 {
                    best = found;
                }
            }
        }
        best
    }

    /// Puts those first that reached into the last page: what came too late to find room below is placed before the others.
    fn promote(&self, order: &mut [usize], slots: &[Slot], page_bytes: u64) {
        let end = |index: &usize| slots[*index].offset + slots[*index].bytes;
        let top = order.iter().map(end).max().unwrap_or(0).saturating_sub(page_bytes);
        // The sort is stable: all others stay in their order.
        order.sort_by_key(|index| end(index) <= top);
    }

    /// Each, in an order, at an offset where it meets nothing that has its place.
    fn greedy(&self, order: &[usize], find: impl Fn(&mut Placed, &Life) -> u64) -> Vec<Slot> {
        let mut placed = Placed::new(self.lives().map(|life| life.death).max().unwrap_or(0));
        let carried = self.born.iter().filter_map(|(life, offset)| Some((*life, (*offset)?)));
        for (life, offset) in self.inherited.iter().copied().chain(carried) {
            placed.insert(&life, offset);
        }
        let slot =
            |(life, offset): &(Life, Option<u64>)| Slot { offset: offset.unwrap_or(0), bytes: life.bytes };
        let mut slots: Vec<Slot> = self.born.iter().map(slot).collect();
        for index in order.iter().copied().filter(|index| self.born[*index].1.is_none()) {
            let life = &self.born[index].0;
            slots[index].offset = find(&mut placed, life);
            placed.insert(life, slots[index].offset);
        }
        slots
    }

    fn is_sound(&self, slots: &[Slot]) -> bool {
        let inherited =
            self.inherited.iter().map(|(life, offset)| Slot { offset: *offset, bytes: life.bytes });
        let slots: Vec<Slot> = slots.iter().copied().chain(inherited).collect();
        is_sound(&slots, &self.lives().copied().collect::<Vec<_>>())
    }

    /// How many pages are touched.
    fn pages(&self, slots: &[Slot], page_bytes: u64) -> u64 {
        let inherited = self.inherited.iter().map(|(life, offset)| (*offset, life.bytes));
        let touched = inherited.chain(slots.iter().map(|slot| (slot.offset, slot.bytes)));
        let pages =
            touched.map(|(offset, bytes)| (offset / page_bytes, (offset + bytes).div_ceil(page_bytes)));
        let mut pages: Vec<(u64, u64)> = pages.collect();
        pages.sort_unstable();
        let (mut count, mut top) = (0, 0);
        for (first, end) in pages {
            count += end.saturating_sub(first.max(top));
            top = top.max(end);
        }
        count
    }
}
