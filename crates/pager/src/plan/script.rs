use std::iter;
use std::ops::Range;
use std::sync::Arc;

use super::Plan;

/// Where a page of the tape has its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// In memory of its own, copied once.
    Resident,
    /// In this page of the ring, which other pages of the tape have too.
    Ring(u32),
}

/// One copy: pages that follow one another on the tape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) pages: Range<u32>,
    /// Whether they go to the ring.
    pub(crate) is_streamed: bool,
    /// Every visit below this number is over when the copy begins.
    pub(crate) after: u64,
}

/// Which copies the visits need, one visit after the other: the books of what every page of the ring holds and who used it last.
///
/// The same code tells the plan what to expect and the pager what to do.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    homes: Arc<[Home]>,
    /// For a resident page: whether it was copied.
    loaded: Vec<bool>,
    ring: Vec<RingPage>,
    /// The `after` of the last piece: copies are in order.
    after: u64,
}

#[derive(Clone, Copy, Debug)]
struct RingPage {
    /// Which page of the tape it holds.
    holds: u32,
    /// One more than the number of the last visit that uses it.
    used: u64,
}

const NOTHING: u32 = u32::MAX;

impl Script {
    pub(crate) fn new(homes: Arc<[Home]>, ring_pages: u32) -> Self {
        let loaded = vec![false; homes.len()];
        let ring = vec![RingPage { holds: NOTHING, used: 0 }; ring_pages as usize];
        Self { homes, loaded, ring, after: 0 }
    }

    /// The books of another plan for the same pages: of those that `stay` is said of, their memory and what it holds are as before. `held` are pages that the
    /// launches of a visit still read. What else was in the ring is forgotten; all work that used it is done.
    pub(crate) fn moved(
        &self,
        plan: &Plan,
        stay: &[bool],
        held: impl IntoIterator<Item = (u64, Range<u32>)>,
    ) -> Self {
        let mut script = plan.script();
        for (page, stays) in stay.iter().enumerate() {
            // What a held visit reads is there, even if its page came through the ring.
            script.loaded[page] = *stays && (self.loaded[page] || self.homes[page] != Home::Resident);
        }
        for (number, page) in
            held.into_iter().flat_map(|(number, pages)| pages.map(move |page| (number, page)))
        {
            if let Home::Ring(slot) = script.homes[page as usize] {
                script.ring[slot as usize] = RingPage { holds: page, used: number + 1 };
            }
        }
        script
    }

    /// These pages are not where they were said to be: their copies were not made.
    pub(crate) fn forget(&mut self, pages: Range<u32>) {
        for page in pages {
            match self.homes[page as usize] {
                Home::Resident => self.loaded[page as usize] = false,
                Home::Ring(slot) => self.ring[slot as usize].holds = NOTHING,
            }
        }
    }

    /// Nothing is in the ring.
    pub(crate) fn forget_ring(&mut self) {
        self.ring.iter_mut().for_each(|page| page.holds = NOTHING);
    }

    /// Visit `number`, which is held, is all that uses its pages of the ring: the copies that bring them.
    pub(crate) fn bring(&mut self, number: u64, pages: Range<u32>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for page in pages {
            if let Home::Ring(slot) = self.homes[page as usize] {
                self.ring[slot as usize] = RingPage { holds: page, used: number + 1 };
                push(&mut pieces, 0, page, true, self.after);
            }
        }
        pieces
    }

    /// Whether all resident pages among the `needed` were copied.
    pub(crate) fn is_loaded(&self, needed: &[bool]) -> bool {
        let pages = self.homes.iter().zip(&self.loaded).zip(needed);
        pages.into_iter().all(|((home, loaded), needed)| !needed || *home != Home::Resident || *loaded)
    }

    /// What each page of the ring holds into which `needed` pages come, and when it was used, from visit `base` on; first when the last copies began.
    pub(crate) fn relative(&self, base: u64, needed: &[bool]) -> Vec<(u32, Option<u64>)> {
        // Copies run less than a turn ahead, and what is there was used in the turn before: no number is far below.
        let relative = |number: u64| (number > 0).then(|| (number + (1 << 32)).saturating_sub(base));
        let mut is_used = vec![false; self.ring.len()];
        for (home, _) in self.homes.iter().zip(needed).filter(|(_, needed)| **needed) {
            if let Home::Ring(slot) = home {
                is_used[*slot as usize] = true;
            }
        }
        let pages = self.ring.iter().zip(is_used).filter(|(_, is_used)| *is_used);
        let pages = pages.map(|(page, _)| (page.holds, relative(page.used)));
        iter::once((NOTHING, relative(self.after))).chain(pages).collect()
    }

    /// Adds the copies that visit `number` needs, which reads `pages`. Visits come in the order of their numbers.
    ///
    /// # Panics
    /// If two of the pages have the same page of the ring: no plan has that.
    pub(crate) fn visit(&mut self, number: u64, pages: Range<u32>, pieces: &mut Vec<Piece>) {
        let first = pieces.len();
        for page in pages {
            let needed = match self.homes[page as usize] {
                Home::Resident => !std::mem::replace(&mut self.loaded[page as usize], true),
                Home::Ring(slot) => {
                    let RingPage { holds, used } = &mut self.ring[slot as usize];
                    let is_there = *holds == page;
                    assert!(
                        is_there || *used <= number,
                        "pages {holds} and {page} share page {slot} of the ring"
                    );
                    if !is_there {
                        self.after = self.after.max(*used);
                    }
                    (*holds, *used) = (page, number + 1);
                    !is_there
                }
            };
            if needed {
                let is_streamed = self.homes[page as usize] != Home::Resident;
                push(pieces, first, page, is_streamed, self.after);
            }
        }
    }
}

fn push(pieces: &mut Vec<Piece>, first: usize, page: u32, is_streamed: bool, after: u64) {
    match pieces[first..].last_mut() {
        Some(last) if last.pages.end == page && last.is_streamed == is_streamed && last.after == after => {
            last.pages.end += 1;
        }
        _ => pieces.push(Piece { pages: page..page + 1, is_streamed, after }),
    }
}
