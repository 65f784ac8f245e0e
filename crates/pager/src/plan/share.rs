//! How many pages of each unit are streamed, and which page of the ring each of them has.

use crate::plan::script::Home;
use crate::plan::tape::{Span, Tape, page_number};

/// Deals `total` pages out in proportion to the weights, none above its cap: the copies are then spread along the cycle as the time is.
///
/// What a unit at its cap cannot take, the others share. Fractions are carried along the cycle, so that every stretch of it has its share to within a page.
pub(crate) fn deal(total: u32, weights: &[f64], caps: &[u32]) -> Vec<u32> {
    let level = level(f64::from(total), weights, caps);
    let mut dealt = Vec::with_capacity(caps.len());
    let (mut wanted, mut given) = (0.0, 0_u32);
    for (weight, cap) in weights.iter().zip(caps) {
        wanted += (level * weight).min(f64::from(*cap));
        let pages = whole(wanted).saturating_sub(given).min(*cap);
        given += pages;
        dealt.push(pages);
    }
    settle(total, given, &mut dealt, caps);
    dealt
}

/// The factor at which the capped products sum up to `total`.
fn level(total: f64, weights: &[f64], caps: &[u32]) -> f64 {
    let mut full: Vec<(f64, f64, f64)> = weights
        .iter()
        .zip(caps)
        .map(|(weight, cap)| (f64::from(*cap) / weight.max(f64::MIN_POSITIVE), f64::from(*cap), *weight))
        .collect();
    full.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut capped, mut open) = (0.0, weights.iter().sum::<f64>());
    for (at, cap, weight) in full {
        if capped + at * open >= total {
            break;
        }
        capped += cap;
        open -= weight;
    }
    if open > 0.0 { ((total - capped) / open).max(0.0) } else { f64::MAX }
}

/// Corrects what rounding left over or took too much, from the end of the cycle.
fn settle(total: u32, given: u32, dealt: &mut [u32], caps: &[u32]) {
    let (mut missing, mut surplus) = (total.saturating_sub(given), given.saturating_sub(total));
    for (pages, cap) in dealt.iter_mut().zip(caps).rev() {
        let more = missing.min(cap - *pages);
        *pages += more;
        missing -= more;
        let less = surplus.min(*pages);
        *pages -= less;
        surplus -= less;
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number of pages, not below 0 and far below 2^32"
)]
fn whole(pages: f64) -> u32 {
    // Sums of shares that are whole numbers may lie a rounding error below them.
    (pages + 1e-6) as u32
}

/// Gives every page of the tape its memory: of each unit the first pages are resident, the last `streamed` ones are streamed through a ring of `ring_pages`. None
/// if some unit has more streamed pages than the ring.
///
/// Streamed pages take the ring's pages one after the other, around and around, and the cycle is a whole number of turns, so that a page has the same place in
/// every cycle. What is missing to whole turns is dealt out as gaps before units, as far as there is room beside the unit.
pub(crate) fn homes(tape: &Tape, streamed: &[u32], ring_pages: u32) -> Option<Vec<Home>> {
    let total: u32 = streamed.iter().sum();
    let gaps = if ring_pages == 0 { 0 } else { (ring_pages - total % ring_pages) % ring_pages };
    let mut homes = vec![Home::Resident; tape.pages as usize];
    let (mut position, mut done) = (0_u32, 0_u32);
    for (span, pages) in tape.spans.iter().zip(streamed) {
        let needed = pages + shared(&homes, span);
        if needed > ring_pages {
            return None;
        }
        let due = share(gaps, done, total).saturating_sub(position - done);
        position += if *pages > 0 { due.min(ring_pages - needed) } else { 0 };
        for page in span.owned.end - pages..span.owned.end {
            homes[page as usize] = Home::Ring(position % ring_pages);
            position += 1;
        }
        done += pages;
    }
    Some(homes)
}

/// Whether the page that a unit shares with the one before it is streamed: 0 or 1.
fn shared(homes: &[Home], span: &Span) -> u32 {
    let is_shared = span.touched.start < span.owned.start && !span.touched.is_empty();
    u32::from(is_shared && homes[span.touched.start as usize] != Home::Resident)
}

fn share(gaps: u32, done: u32, total: u32) -> u32 {
    page_number(u64::from(gaps) * u64::from(done) / u64::from(total.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_dealt_in_proportion() {
        assert_eq!(deal(10, &[1.0, 2.0, 2.0], &[9, 9, 9]), [2, 4, 4]);
        assert_eq!(deal(10, &[1.0, 2.0, 2.0], &[9, 2, 9]), [2, 2, 6]);
        assert_eq!(deal(3, &[1.0; 6], &[1; 6]), [0, 1, 0, 1, 0, 1]);
        assert_eq!(deal(6, &[1.0; 6], &[1; 6]), [1; 6]);
        assert_eq!(deal(0, &[1.0; 3], &[1; 3]), [0; 3]);
        assert_eq!(deal(4, &[0.0, 0.0], &[3, 2]), [2, 2]);
    }
}
