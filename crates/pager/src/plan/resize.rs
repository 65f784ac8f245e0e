//! The same turns at the same addresses in more or less memory.

use std::sync::Arc;

use super::search::{Choice, Question};
use super::tape::page_number;
use super::{Goal, Plan};
use crate::plan::Home;

/// How many sizes between the wanted one and the present one are looked at where the wanted one cannot be had.
const SIZES: u32 = 8;

impl Plan {
    /// Pages of device memory that it takes.
    pub(crate) fn pages(&self) -> u32 {
        let resident = self.choice.homes.iter().filter(|home| **home == Home::Resident).count();
        page_number(resident as u64) + self.choice.ring_pages
    }

    /// A plan in `pages` pages; if that is too little, the one that comes closest. None if there is none in fewer pages than this one has.
    ///
    /// `fixed` pages keep the memory that they have under this plan.
    pub(crate) fn shrunk(&self, pages: u32, fixed: &[bool]) -> Option<Self> {
        let (now, least) = (self.pages(), self.tape.touched_max());
        let fixed_pages = page_number(fixed.iter().filter(|fixed| **fixed).count() as u64);
        let between = (1..SIZES).map(|step| pages + now.saturating_sub(pages) / SIZES * step);
        let sizes = [pages, pages.saturating_sub(fixed_pages), least].into_iter().chain(between);
        let mut closest: Option<Self> = None;
        for size in sizes.filter(|size| *size >= least) {
            let Some(plan) = self.resized(size, fixed) else { continue };
            let is_enough = plan.pages() <= pages;
            if plan.pages() < closest.as_ref().map_or(now, Self::pages) {
                closest = Some(plan);
            }
            if is_enough {
                break;
            }
        }
        closest
    }

    /// The best plan in `pages` pages, and beside them what `fixed` pages take that it would have moved. None if that is too little.
    pub(crate) fn resized(&self, pages: u32, fixed: &[bool]) -> Option<Self> {
        let goal = Goal {
            cycles: self.cycles.clone(),
            link: self.link,
            budget_bytes: u64::from(pages) * self.tape.page_bytes,
            page_bytes: self.tape.page_bytes,
            held: self.held,
            source: self.source,
            host: self.host,
            first_kind: self.first_kind,
        };
        let choice = Question::new(&self.tape, &goal).answer()?;
        Some(Self::of(Arc::clone(&self.tape), keeping(choice, self.homes(), fixed), &goal))
    }

    /// This plan, but for pages that are `fixed` where `other` has them.
    pub(crate) fn beside(&self, other: &Self, fixed: &[bool]) -> Self {
        let choice = keeping(self.choice.clone(), other.homes(), fixed);
        Self { choice, ..self.clone() }
    }
}

/// Pages that are fixed stay where they are: a resident one is resident, one in the ring has its place in the new ring as well, or becomes resident where that has
/// none for it.
fn keeping(mut choice: Choice, homes: &[Home], fixed: &[bool]) -> Choice {
    let mut is_taken = vec![false; choice.ring_pages as usize];
    let present = Arc::make_mut(&mut choice.homes);
    for (page, _) in fixed.iter().enumerate().filter(|(_, is_fixed)| **is_fixed) {
        let stays_in_ring = match (homes[page], present[page]) {
            (Home::Ring(_), Home::Ring(slot)) => !std::mem::replace(&mut is_taken[slot as usize], true),
            _ => false,
        };
        if !stays_in_ring {
            present[page] = Home::Resident;
        }
    }
    choice
}
