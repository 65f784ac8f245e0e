//! Which pages are resident and how long the ring is: the choice with the shortest turns.

use std::sync::Arc;

use crate::plan::goal::{Cycle, Goal, Link};
use crate::plan::script::{Home, Script};
use crate::plan::share::{deal, homes};
use crate::plan::tape::{Span, Tape, page_number};
use crate::plan::timing::{as_f64, steady};

/// What a plan decides.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Choice {
    /// By page of the tape.
    pub(crate) homes: Arc<[Home]>,
    pub(crate) ring_pages: u32,
    /// By place on the tape: its streamed pages.
    pub(crate) streamed: Vec<u32>,
}

/// What a choice is made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) tape: &'a Tape,
    pub(crate) cycles: &'a [Cycle],
    pub(crate) link: &'a Link,
    /// Pages that there are.
    pub(crate) pages: u32,
    /// Leases held at once.
    pub(crate) held: usize,
}

/// Ring lengths grow by this factor in the first look.
const GROWTH: f64 = 1.3;
/// How often the neighbourhood of the best ring is halved.
const HALVINGS: u32 = 3;
/// How many of the best choices are polished.
const POLISHED: usize = 12;
/// Pages and units that may be looked at while a choice is polished: a few milliseconds.
const TRIES_PAGES: usize = 100_000;
/// What a second of the link is worth, in seconds of the run.
const BYTE_SHARE: f64 = 1e-4;

/// A choice, and what it is worth.
#[derive(Clone, Debug)]
struct Found {
    seconds: f64,
    choice: Choice,
    bias: f64,
}

/// One page of `kept` becomes resident, and one of `sent` is streamed instead. Behind the last unit stands the ring: as `kept` it takes a page, as `sent` it
/// gives one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Move {
    kept: usize,
    sent: usize,
}

impl Move {
    const NONE: Self = Self { kept: usize::MAX, sent: usize::MAX };
}

fn moves(places: usize) -> impl Iterator<Item = Move> {
    let pairs = (0..places).flat_map(move |kept| (0..places).map(move |sent| Move { kept, sent }));
    pairs.filter(|Move { kept, sent }| kept != sent)
}

fn best(found: &[Found]) -> Option<&Found> {
    found.iter().min_by(|a, b| a.seconds.total_cmp(&b.seconds))
}

impl<'a> Question<'a> {
    pub(crate) fn new(tape: &'a Tape, goal: &'a Goal) -> Self {
        let pages = page_number((goal.budget_bytes / goal.page_bytes).min(u64::from(u32::MAX)));
        Self { tape, cycles: &goal.cycles, link: &goal.link, pages, held: goal.held }
    }

    /// The best choice, or none if not even the ring for the largest unit fits.
    pub(crate) fn answer(&self) -> Option<Choice> {
        if self.tape.pages <= self.pages {
            return self.choice(&vec![0; self.tape.spans.len()], 0);
        }
        if self.cycles.iter().map(|cycle| cycle.turns).sum::<u64>() <= 1 {
            // Nothing comes twice: all memory is ring.
            return self.of_ring(self.pages, &self.weights(1.0));
        }
        self.search()
    }

    fn search(&self) -> Option<Choice> {
        let biases: &[f64] = if self.has_part_time_units() { &[1.0, 0.25, 4.0, 1e3] } else { &[1.0] };
        let mut found = Vec::new();
        for bias in biases {
            let weights = self.weights(*bias);
            self.rings().for_each(|ring| self.consider(ring, (&weights, *bias), &mut found));
        }
        let (first, bias) = best(&found).map(|found| (found.choice.ring_pages, found.bias))?;
        let weights = self.weights(bias);
        let mut step = f64::from(first) * (GROWTH - 1.0) / 2.0;
        for _ in 0..HALVINGS {
            let centre = f64::from(best(&found)?.choice.ring_pages);
            for ring in [centre - step, centre + step] {
                self.consider(rounded(ring), (&weights, bias), &mut found);
            }
            step /= 2.0;
        }
        if self.polish_tries().is_some() {
            found.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
            found.truncate(POLISHED);
            found = found.into_iter().map(|found| self.polish(found)).collect();
        }
        best(&found).map(|found| found.choice.clone())
    }

    /// How many moves may be tried on a choice; none where there are so many units that the balance is fine grained anyway, and polishing not worth its time.
    fn polish_tries(&self) -> Option<usize> {
        let places = self.tape.spans.len() + 1;
        let tries = TRIES_PAGES / (self.tape.pages as usize + places);
        (tries >= places * (places - 1) * 2).then_some(tries)
    }

    /// Moves single pages between units, residency and ring as long as that helps, then two at a time.
    fn polish(&self, mut found: Found) -> Found {
        let Some(mut tries) = self.polish_tries() else { return found };
        let places = self.tape.spans.len() + 1;
        let singles = || moves(places).map(|first| [first, Move::NONE]);
        while let Some(better) = self.improved(&found, singles(), &mut tries).or_else(|| {
            let pairs = moves(places).flat_map(|first| moves(places).map(move |second| [first, second]));
            self.improved(&found, pairs, &mut tries)
        }) {
            found = better;
        }
        found
    }

    /// The first of the moves that makes turns shorter.
    fn improved(
        &self,
        found: &Found,
        moves: impl Iterator<Item = [Move; 2]>,
        tries: &mut usize,
    ) -> Option<Found> {
        for moves in moves {
            *tries = tries.checked_sub(1)?;
            if let Some(other) = self.moved(found, moves).filter(|other| other.seconds < found.seconds) {
                return Some(other);
            }
        }
        None
    }

    fn moved(&self, found: &Found, moves: [Move; 2]) -> Option<Found> {
        let (mut streamed, mut ring) = (found.choice.streamed.clone(), found.choice.ring_pages);
        for Move { kept, sent } in moves.into_iter().filter(|one| *one != Move::NONE) {
            match streamed.get_mut(kept) {
                Some(pages) => *pages = pages.checked_sub(1)?,
                None => ring += 1,
            }
            match streamed.get_mut(sent) {
                Some(pages) if (*pages as usize) < self.tape.spans[sent].owned.len() => *pages += 1,
                Some(_) => return None,
                None => ring = ring.checked_sub(1)?,
            }
        }
        let choice = self.choice(&streamed, ring)?;
        Some(Found { seconds: self.score(&choice), choice, bias: found.bias })
    }

    /// Ring lengths to look at first.
    fn rings(&self) -> impl Iterator<Item = u32> {
        let mut rings: Vec<u32> = Vec::new();
        let mut ring = 1.0;
        while ring < f64::from(self.pages) {
            rings.push(rounded(ring));
            ring = (ring * GROWTH).max(ring + 1.0);
        }
        rings.push(self.pages);
        rings.into_iter()
    }

    /// Adds the choice with a ring of that length, if there is one and it can be the best. Where choices are polished the best may come of any of them.
    fn consider(&self, ring: u32, (weights, bias): (&[f64], f64), found: &mut Vec<Found>) {
        if ring == 0 || ring > self.pages {
            return;
        }
        let is_open = |best: &Found| self.polish_tries().is_some() || self.least_score(ring) <= best.seconds;
        if best(found).is_none_or(is_open)
            && let Some(choice) = self.of_ring(ring, weights)
        {
            found.push(Found { seconds: self.score(&choice), choice, bias });
        }
    }

    /// No choice with a ring of that length has a lower [`score`](Self::score): its launches take their time, and what it streams crosses the link. 0 where nothing is known.
    ///
    /// Every streamed page whose place in the ring another page has too is copied in every turn. Those without such a rival are few: the stream goes around the ring
    /// at least `around` times, so a place in which only one page comes has at least `around - 1` gaps, and there are fewer gaps than the ring has pages.
    pub(super) fn least_score(&self, ring: u32) -> f64 {
        let [cycle] = self.cycles else { return 0.0 };
        let streamed = self.streamed_pages(ring);
        let around = streamed / ring;
        if around < 2 {
            return 0.0;
        }
        let gaps = (ring - streamed % ring) % ring;
        // The last page of the tape may be shorter.
        let pages = streamed.saturating_sub(gaps / (around - 1) + 1);
        let copying = as_f64(u64::from(pages) * self.tape.page_bytes) / self.link.bytes_per_second;
        // Sums of times differ by their rounding, and a steady turn is no shorter than its copies to within as little.
        let seconds = (cycle.seconds().max(copying) + BYTE_SHARE * copying) * (1.0 - 1e-8);
        #[expect(clippy::cast_precision_loss, reason = "turns are far below 2^52")]
        let turns = cycle.turns as f64;
        turns * seconds
    }

    /// Pages that are streamed where the ring is that long.
    fn streamed_pages(&self, ring: u32) -> u32 {
        self.tape.pages - (self.pages - ring).min(self.tape.pages)
    }

    /// Seconds of all turns in their steady states, and a little for every byte that crosses the link: of choices that are equally fast, the one that copies less.
    pub(super) fn score(&self, choice: &Choice) -> f64 {
        let script = Script::new(choice.homes.clone(), choice.ring_pages);
        let turn = |cycle: &Cycle| {
            let steady = steady(self.tape, self.link, &script, cycle);
            #[expect(clippy::cast_precision_loss, reason = "turns are far below 2^52")]
            let turns = cycle.turns as f64;
            turns * (steady.seconds + BYTE_SHARE * as_f64(steady.copied_bytes) / self.link.bytes_per_second)
        };
        self.cycles.iter().map(turn).sum()
    }

    pub(super) fn of_ring(&self, ring: u32, weights: &[f64]) -> Option<Choice> {
        // A unit never has more streamed pages than the ring, the one that it shares included.
        let cap = |span: &Span| {
            let shared = u32::from(span.touched.start < span.owned.start);
            page_number(span.owned.len() as u64).min(ring.saturating_sub(shared))
        };
        let caps: Vec<u32> = self.tape.spans.iter().map(cap).collect();
        let streamed = self.streamed_pages(ring);
        if caps.iter().sum::<u32>() < streamed {
            return None;
        }
        self.choice(&deal(streamed, weights, &caps), ring)
    }

    pub(crate) fn choice(&self, streamed: &[u32], ring_pages: u32) -> Option<Choice> {
        let homes = homes(self.tape, streamed, ring_pages)?.into();
        let choice = Choice { homes, ring_pages, streamed: streamed.to_vec() };
        (self.held <= 1 || self.can_be_held(&choice)).then_some(choice)
    }

    /// Whether no two pages of any `held` visits behind one another have the same place in the ring.
    fn can_be_held(&self, choice: &Choice) -> bool {
        let mut last = vec![(usize::MAX, 0_u32); choice.ring_pages as usize];
        self.cycles.iter().all(|cycle| {
            last.fill((usize::MAX, 0));
            // Once around and on into the next turn.
            let visits = cycle.visits.iter().chain(cycle.visits.iter().take(self.held - 1)).enumerate();
            visits.into_iter().all(|(number, visit)| {
                let pages =
                    self.tape.place(visit.unit).map_or(0..0, |place| self.tape.spans[place].touched.clone());
                pages.into_iter().all(|page| {
                    let Home::Ring(slot) = choice.homes[page as usize] else { return true };
                    let (before, other) = std::mem::replace(&mut last[slot as usize], (number, page));
                    before == usize::MAX || other == page || number - before >= self.held
                })
            })
        })
    }

    /// In proportion to what pages are streamed: the time of the unit's visits, all turns taken together, for each time that it comes over the link. `bias` is
    /// how much more those are streamed that some turns do not visit.
    pub(super) fn weights(&self, bias: f64) -> Vec<f64> {
        let mut seconds = vec![0.0; self.tape.spans.len()];
        let mut visits = vec![0_u64; self.tape.spans.len()];
        for cycle in self.cycles {
            for visit in &cycle.visits {
                if let Some(place) = self.tape.place(visit.unit) {
                    #[expect(clippy::cast_precision_loss, reason = "turns are far below 2^52")]
                    let turns = cycle.turns.max(1) as f64;
                    seconds[place] += turns * visit.seconds();
                    visits[place] += cycle.turns.max(1);
                }
            }
        }
        let most = visits.iter().max().copied().unwrap_or(0);
        let weight = |place: usize| {
            #[expect(clippy::cast_precision_loss, reason = "visits are far below 2^52")]
            let each = seconds[place] / visits[place].max(1) as f64;
            each.max(f64::MIN_POSITIVE) * if visits[place] < most { bias } else { 1.0 }
        };
        (0..seconds.len()).map(weight).collect()
    }

    /// Whether there are units that some turns visit and others do not.
    fn has_part_time_units(&self) -> bool {
        let visits = |cycle: &Cycle| cycle.visits.len();
        self.cycles.iter().map(visits).min() != self.cycles.iter().map(visits).max()
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of pages")]
fn rounded(pages: f64) -> u32 {
    pages.round().max(0.0) as u32
}
