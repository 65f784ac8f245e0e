use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::loader::STAGES;
use crate::slots::Slots;
use crate::units::{ALIGNMENT_BYTES, UnitId, Units};
use crate::{Error, Result};

/// What is resident and what is streamed through a ring of which size: a pure function of units, cycle and budget.
///
/// Bytes of units count with their alignment, here and in [`Statistics`](crate::Statistics).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    page_bytes: u64,
    cycle: Vec<UnitId>,
    /// Offset of each resident unit in the slab, which holds them in the order of their first visits.
    resident: BTreeMap<UnitId, u64>,
    resident_bytes: u64,
    /// The streamed visits, in the order of the cycle.
    slots: Slots,
    ring_bytes: u64,
    streamed_bytes: u64,
    visited_bytes: u64,
}

/// What the choice needs to know of a unit: plain numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Weight {
    unit: UnitId,
    bytes: u64,
    /// How often the cycle visits it.
    visits: u64,
}

/// Which units of the list stay, and how long the ring for the others is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Choice {
    resident: BTreeSet<UnitId>,
    ring_bytes: u64,
    streamed_bytes: u64,
}

impl Plan {
    /// Every unit of the cycle resident.
    ///
    /// # Panics
    /// If the cycle names a unit that is not one of `units`, or `page_bytes` is not a multiple of [`ALIGNMENT_BYTES`].
    #[must_use]
    pub fn resident(units: &Units, cycle: &[UnitId], page_bytes: u64) -> Self {
        let weights = weigh(units, cycle);
        let resident = weights.iter().map(|weight| weight.unit).collect();
        Self::lay_out(&weights, cycle, 0, page_bytes, &Choice { resident, ring_bytes: 0, streamed_bytes: 0 })
    }

    /// The plan within `budget_bytes` for weights that streams the fewest bytes.
    ///
    /// More budget never streams more. The ring has room for two of the largest unit that it carries, so that one is copied while the other is read;
    /// only where that does not fit the budget it is shorter, and nothing is resident then. The resident units are spread along the cycle. Pages that are left
    /// widen the ring where a copy would else wait at the end of the cycle.
    ///
    /// # Errors
    /// [`Error::Budget`] below [`Plan::minimum`].
    ///
    /// # Panics
    /// As [`Plan::resident`].
    pub fn within(units: &Units, cycle: &[UnitId], budget_bytes: u64, page_bytes: u64) -> Result<Self> {
        let weights = weigh(units, cycle);
        let choice = choose(&weights, budget_bytes, page_bytes).ok_or_else(|| {
            let largest = weights.iter().max_by_key(|weight| weight.bytes);
            Error::Budget {
                needed: minimum(&weights, page_bytes),
                budget: budget_bytes,
                largest: largest.map(|weight| units.get(weight.unit).name.clone()).unwrap_or_default(),
            }
        })?;
        Ok(Self::lay_out(&weights, cycle, budget_bytes, page_bytes, &choice))
    }

    /// The smallest budget that [`Plan::within`] accepts: the largest unit of the cycle, in whole pages.
    ///
    /// # Panics
    /// If the cycle names a unit that is not one of `units`.
    #[must_use]
    pub fn minimum(units: &Units, cycle: &[UnitId], page_bytes: u64) -> u64 {
        minimum(&weigh(units, cycle), page_bytes)
    }

    /// Device bytes that the plan takes: resident slab and ring, in whole pages.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.resident_bytes + self.ring_bytes
    }

    /// Bytes of the resident slab, in whole pages.
    #[must_use]
    pub const fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    /// Bytes of the ring, in whole pages.
    #[must_use]
    pub const fn ring_bytes(&self) -> u64 {
        self.ring_bytes
    }

    /// Bytes that cross the link once a cycle in the steady state.
    #[must_use]
    pub const fn streamed_bytes(&self) -> u64 {
        self.streamed_bytes
    }

    /// Pinned host bytes that converted weights take: those of every streamed unit, and two stages for the largest resident one.
    ///
    /// # Panics
    /// If the plan was made for other units.
    #[must_use]
    pub fn pinned_bytes(&self, units: &Units) -> u64 {
        let visited: BTreeSet<UnitId> = self.cycle.iter().copied().collect();
        let converted = |unit: &UnitId| units.get(*unit).converted_bytes();
        let kept: u64 = visited.iter().filter(|unit| !self.is_resident(**unit)).map(converted).sum();
        let staged = self.resident.keys().filter(|unit| converted(unit) > 0).count();
        kept + staged.min(STAGES) as u64 * self.stage_bytes(units)
    }

    /// The order of visits that the plan was made for.
    #[must_use]
    pub fn cycle(&self) -> &[UnitId] {
        &self.cycle
    }

    /// Whether the unit stays on the device.
    #[must_use]
    pub fn is_resident(&self, unit: UnitId) -> bool {
        self.resident.contains_key(&unit)
    }

    /// The page that sizes were rounded to.
    #[must_use]
    pub const fn page_bytes(&self) -> u64 {
        self.page_bytes
    }

    /// The resident units with their offsets in the slab.
    pub(crate) fn residents(&self) -> impl Iterator<Item = (UnitId, u64)> + '_ {
        self.resident.iter().map(|(unit, offset)| (*unit, *offset))
    }

    pub(crate) const fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Bytes of the largest resident unit's converted tensors.
    pub(crate) fn stage_bytes(&self, units: &Units) -> u64 {
        self.resident.keys().map(|unit| units.get(*unit).converted_bytes()).max().unwrap_or(0)
    }

    /// Bytes of the units of all visits of a cycle.
    pub(crate) const fn visited_bytes(&self) -> u64 {
        self.visited_bytes
    }

    fn lay_out(
        weights: &[Weight],
        cycle: &[UnitId],
        budget_bytes: u64,
        page_bytes: u64,
        choice: &Choice,
    ) -> Self {
        assert!(
            page_bytes.is_multiple_of(ALIGNMENT_BYTES) && page_bytes > 0,
            "page {page_bytes} is not a multiple of {ALIGNMENT_BYTES}"
        );
        let mut resident = BTreeMap::new();
        let mut next = 0;
        for weight in weights.iter().filter(|weight| choice.resident.contains(&weight.unit)) {
            resident.insert(weight.unit, next);
            next += weight.bytes;
        }
        let bytes: BTreeMap<UnitId, u64> = weights.iter().map(|weight| (weight.unit, weight.bytes)).collect();
        let streamed: Vec<u64> =
            cycle.iter().filter(|unit| !resident.contains_key(unit)).map(|unit| bytes[unit]).collect();
        let resident_bytes = next.next_multiple_of(page_bytes);
        let spare_bytes =
            budget_bytes.saturating_sub(resident_bytes + choice.ring_bytes) / page_bytes * page_bytes;
        let ring_bytes = widen(&streamed, choice.ring_bytes, spare_bytes, page_bytes);
        Self {
            page_bytes,
            cycle: cycle.to_vec(),
            resident,
            resident_bytes,
            slots: Slots::new(&streamed, ring_bytes),
            ring_bytes,
            streamed_bytes: choice.streamed_bytes,
            visited_bytes: weights.iter().map(|weight| weight.bytes * weight.visits).sum(),
        }
    }
}

/// The units of a cycle, each once, in the order of their first visits.
fn weigh(units: &Units, cycle: &[UnitId]) -> Vec<Weight> {
    let mut places: BTreeMap<UnitId, usize> = BTreeMap::new();
    let mut weights: Vec<Weight> = Vec::new();
    for unit in cycle {
        let place = *places.entry(*unit).or_insert(weights.len());
        if place == weights.len() {
            weights.push(Weight { unit: *unit, bytes: units.bytes(*unit), visits: 0 });
        }
        weights[place].visits += 1;
    }
    weights
}

fn minimum(weights: &[Weight], page_bytes: u64) -> u64 {
    weights.iter().map(|weight| weight.bytes).max().unwrap_or(0).next_multiple_of(page_bytes)
}

/// The best of one candidate for each size: units above it are resident, the ring holds two of it.
///
/// Why more budget never streams more: in one candidate the ring is fixed, and units are taken in a fixed order, each that fits. At the first unit
/// which only the larger budget takes, the larger one has at once more bytes than the smaller one can ever have, and
/// none that the smaller one takes later is visited more often. The best of such candidates inherits it; and where there is none, everything is streamed.
fn choose(weights: &[Weight], budget_bytes: u64, page_bytes: u64) -> Option<Choice> {
    let budget_bytes = budget_bytes / page_bytes * page_bytes;
    let order = order(weights);
    let sizes: BTreeSet<u64> = weights.iter().map(|weight| weight.bytes).chain([0]).collect();
    // From the smallest size on: the first, without a ring, is everything resident; of equals the later, deeper ring wins.
    let candidates = sizes.into_iter().filter_map(|size| candidate(&order, size, budget_bytes, page_bytes));
    let best = candidates.reduce(|best, other| {
        let better = other.streamed_bytes <= best.streamed_bytes && best.streamed_bytes > 0;
        if better { other } else { best }
    });
    best.or_else(|| stream_everything(weights, budget_bytes, page_bytes))
}

/// Units above `size` resident, a ring for two of `size`, and of the others every one resident that still fits, in the given order.
fn candidate(order: &[Weight], size: u64, budget_bytes: u64, page_bytes: u64) -> Option<Choice> {
    let ring_bytes = (2 * size).next_multiple_of(page_bytes);
    let forced: u64 = order.iter().filter(|weight| weight.bytes > size).map(|weight| weight.bytes).sum();
    let mut left = budget_bytes.checked_sub(ring_bytes)?.checked_sub(forced)?;
    let mut choice = Choice { resident: BTreeSet::new(), ring_bytes, streamed_bytes: 0 };
    for weight in order {
        if weight.bytes > size {
            choice.resident.insert(weight.unit);
        } else if weight.bytes <= left {
            left -= weight.bytes;
            choice.resident.insert(weight.unit);
        } else {
            choice.streamed_bytes += weight.bytes * weight.visits;
        }
    }
    // A ring without anything to carry: the candidate of size 0 has the same units without it.
    (choice.streamed_bytes > 0 || size == 0).then_some(choice)
}

/// Nothing resident and all of the budget, which is below two of the largest unit, for the ring.
fn stream_everything(weights: &[Weight], budget_bytes: u64, page_bytes: u64) -> Option<Choice> {
    let streamed_bytes = weights.iter().map(|weight| weight.bytes * weight.visits).sum();
    let fits = minimum(weights, page_bytes) <= budget_bytes;
    fits.then_some(Choice { resident: BTreeSet::new(), ring_bytes: budget_bytes, streamed_bytes })
}

/// How many lengths of the ring are tried.
const TRIES_MAX: u64 = 256;

/// The shortest ring, from `ring_bytes` to `spare_bytes` more, in which the fewest bytes of the cycle have to wait at its end.
fn widen(streamed: &[u64], ring_bytes: u64, spare_bytes: u64, page_bytes: u64) -> u64 {
    if streamed.is_empty() {
        return ring_bytes;
    }
    let step = spare_bytes.div_ceil(TRIES_MAX).next_multiple_of(page_bytes).max(page_bytes);
    let lengths = (0..=spare_bytes / step).map(|tries| ring_bytes + tries * step);
    lengths.min_by_key(|length| Slots::new(streamed, *length).excess_bytes).unwrap_or(ring_bytes)
}

/// In which order units become resident as the budget grows: the most visited first, and among equals so that every beginning of the list is spread
/// evenly along the cycle's bytes.
///
/// The n-th pick is the first unit at or behind the n-th point of van der Corput's sequence (0, 1/2, 1/4, 3/4, 1/8, ...), whose
/// beginnings are all spread evenly; and then so is what they leave.
fn order(weights: &[Weight]) -> Vec<Weight> {
    let total: u64 = weights.iter().map(|weight| weight.bytes).sum::<u64>().max(1);
    let mut classes: BTreeMap<Reverse<u64>, BTreeSet<(u64, usize)>> = BTreeMap::new();
    let mut start = 0;
    for (index, weight) in weights.iter().enumerate() {
        // The unit's start as a fraction of the cycle, in units of 2^-64; a start is below the total, so it fits, but for empty units at the end.
        let fraction = (u128::from(start) << 64) / u128::from(total);
        let fraction = u64::try_from(fraction).unwrap_or(u64::MAX);
        classes.entry(Reverse(weight.visits)).or_default().insert((fraction, index));
        start += weight.bytes;
    }
    classes.into_values().flat_map(spread).map(|index| weights[index]).collect()
}

fn spread(mut left: BTreeSet<(u64, usize)>) -> Vec<usize> {
    let count = left.len() as u64;
    let pick = |number: u64| {
        let point = number.reverse_bits();
        let found = left.range((point, 0)..).next().or(left.first()).copied()?;
        left.remove(&found);
        Some(found.1)
    };
    (0..count).filter_map(pick).collect()
}

#[cfg(test)]
mod tests {
    use lighterage_testkit::Rng;

    use super::*;

    const PAGE: u64 = 4096;

    /// A cycle over units of the given sizes, each visited in order, and some of them once more.
    fn random_weights(rng: &mut Rng) -> Vec<Weight> {
        let scale = [300, 5000, 100_000][usize::try_from(rng.below(3)).unwrap()];
        let count = 1 + u32::try_from(rng.below(40)).unwrap();
        let weight = |unit| {
            let bytes = rng.below(scale).next_multiple_of(ALIGNMENT_BYTES);
            let bytes = if rng.below(6) == 0 { bytes * 10 } else { bytes };
            Weight { unit: UnitId(unit), bytes, visits: [1, 1, 1, 3][usize::try_from(rng.below(4)).unwrap()] }
        };
        (0..count).map(weight).collect()
    }

    fn cycle(weights: &[Weight]) -> Vec<UnitId> {
        let most = weights.iter().map(|weight| weight.visits).max().unwrap_or(0);
        (0..most).flat_map(|round| weights.iter().filter(move |w| w.visits > round).map(|w| w.unit)).collect()
    }

    fn plan(weights: &[Weight], budget_bytes: u64) -> Option<Plan> {
        let choice = choose(weights, budget_bytes, PAGE)?;
        Some(Plan::lay_out(weights, &cycle(weights), budget_bytes, PAGE, &choice))
    }

    fn total(weights: &[Weight]) -> u64 {
        weights.iter().map(|weight| weight.bytes).sum::<u64>().next_multiple_of(PAGE)
    }

    #[test]
    fn plans_keep_the_budget_and_more_budget_never_streams_more() {
        let mut rng = Rng::from_env(11);
        for case in 0..150 {
            let weights = random_weights(&mut rng);
            let (least, most) = (minimum(&weights, PAGE), total(&weights));
            let mut streamed = u64::MAX;
            let mut budget = least;
            loop {
                let plan = plan(&weights, budget)
                    .unwrap_or_else(|| panic!("case {case}: no plan for {budget} bytes"));
                assert!(
                    plan.bytes() <= budget,
                    "case {case}: {} bytes in a budget of {budget}",
                    plan.bytes()
                );
                assert!(
                    plan.streamed_bytes() <= streamed,
                    "case {case}: {streamed} bytes with less than {budget}"
                );
                check_layout(&weights, &plan);
                streamed = plan.streamed_bytes();
                if budget >= most {
                    break;
                }
                budget = (budget + 1 + rng.below(most / 8 + 1)).min(most);
            }
            assert_eq!(streamed, 0, "case {case}: everything fits, so nothing is streamed");
            assert!(
                least == 0 || plan(&weights, least - 1).is_none(),
                "case {case}: {least} is not the minimum"
            );
        }
    }

    /// Units and slots do not meet, the ring holds what it must, and every visit is one or the other.
    fn check_layout(weights: &[Weight], plan: &Plan) {
        let bytes = |unit: &UnitId| weights[unit.0 as usize].bytes;
        let mut residents: Vec<(u64, u64)> =
            plan.residents().map(|(unit, offset)| (offset, offset + bytes(&unit))).collect();
        residents.sort_unstable();
        assert!(residents.windows(2).all(|pair| pair[0].1 <= pair[1].0), "residents overlap: {residents:?}");
        assert!(residents.iter().all(|(_, end)| *end <= plan.resident_bytes()));
        let streamed: Vec<u64> = plan.cycle().iter().filter(|u| !plan.is_resident(**u)).map(bytes).collect();
        assert_eq!(plan.slots().list.iter().map(|slot| slot.bytes).collect::<Vec<_>>(), streamed);
        assert_eq!(streamed.iter().sum::<u64>(), plan.streamed_bytes());
        assert!(streamed.iter().all(|bytes| *bytes <= plan.ring_bytes()));
        if plan.streamed_bytes() > 0 {
            assert!(plan.slots().cycle_bytes.is_multiple_of(plan.ring_bytes()));
            assert!(
                plan.slots().cycle_bytes >= 2 * plan.ring_bytes(),
                "what fits the ring at once should be resident"
            );
            let largest = streamed.iter().max().copied().unwrap_or(0);
            assert!(plan.ring_bytes() >= 2 * largest || plan.resident_bytes() == 0);
        }
    }

    #[test]
    fn streamed_units_are_spread_along_the_cycle() {
        let weights: Vec<Weight> =
            (0..64).map(|unit| Weight { unit: UnitId(unit), bytes: 1 << 16, visits: 1 }).collect();
        for resident in 1..62_u64 {
            let plan = plan(&weights, (resident + 2) << 16).unwrap();
            let streamed: Vec<f64> =
                (0..64).map(|unit| f64::from(u8::from(!plan.is_resident(UnitId(unit))))).collect();
            assert_eq!(streamed.iter().sum::<f64>(), (64 - resident) as f64);
            let share = (64 - resident) as f64 / 64.0;
            for (start, end) in (0..64).flat_map(|start| (start..=64).map(move |end| (start, end))) {
                let got: f64 = streamed[start..end].iter().sum();
                let even = share * (end - start) as f64;
                // Van der Corput's sequence strays by at most log2(n) / 3 + 1 points from an end of the interval (Niederreiter 1992,
                // theorem 3.6), so by twice that between two places inside of it.
                assert!(
                    (got - even).abs() <= 6.0,
                    "{resident} resident: {got} of {start}..{end}, evenly {even}"
                );
            }
        }
    }

    #[test]
    fn units_visited_often_become_resident_first() {
        let weights: Vec<Weight> = (0..10)
            .map(|unit| Weight { unit: UnitId(unit), bytes: PAGE, visits: if unit >= 7 { 4 } else { 1 } })
            .collect();
        let plan = plan(&weights, 5 * PAGE).unwrap();
        assert_eq!(plan.streamed_bytes(), 7 * PAGE);
        assert!((7..10).all(|unit| plan.is_resident(UnitId(unit))));
    }

    #[test]
    fn one_giant_is_resident_rather_than_streamed() {
        let mut weights: Vec<Weight> =
            (0..50).map(|unit| Weight { unit: UnitId(unit), bytes: PAGE, visits: 1 }).collect();
        weights[20].bytes = 100 * PAGE;
        let plan = plan(&weights, 140 * PAGE).unwrap();
        assert_eq!((plan.ring_bytes(), plan.resident_bytes()), (2 * PAGE, 138 * PAGE));
        assert!(plan.is_resident(UnitId(20)));
    }

    #[test]
    fn a_ring_below_two_units_takes_the_whole_budget() {
        let weights: Vec<Weight> =
            (0..5).map(|unit| Weight { unit: UnitId(unit), bytes: 10 * PAGE, visits: 1 }).collect();
        for pages in 10..20 {
            let plan = plan(&weights, pages * PAGE + 1).unwrap();
            assert_eq!((plan.ring_bytes(), plan.resident_bytes()), (pages * PAGE, 0));
        }
    }

    #[test]
    fn spare_bytes_widen_the_ring_so_that_no_copy_waits() {
        // Seven units of ten pages leave half a turn of a ring of twenty; three more pages make slack enough for it.
        let weights: Vec<Weight> =
            (0..7).map(|unit| Weight { unit: UnitId(unit), bytes: 10 * PAGE, visits: 1 }).collect();
        let rings = [20, 22, 24, 29].map(|pages| plan(&weights, pages * PAGE).unwrap());
        assert_eq!(rings.each_ref().map(|plan| plan.ring_bytes() / PAGE), [20, 22, 24, 24]);
        assert_eq!(rings.each_ref().map(|plan| plan.slots().excess_bytes / PAGE), [10, 4, 0, 0]);
    }

    #[test]
    fn an_empty_cycle_needs_nothing() {
        let plan = plan(&[], 0).unwrap();
        assert_eq!((plan.bytes(), plan.streamed_bytes()), (0, 0));
    }
}
