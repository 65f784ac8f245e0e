use crate::plan::Plan;
use crate::units::UnitId;

/// A place in the endless row of visits: turn after turn, each of some kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// Grows from visit to visit, and each turn begins at a multiple of the longest turn's visits: so a visit's number modulo those is its position.
    pub(crate) number: u64,
    /// Kind of the turn.
    pub(crate) kind: usize,
    /// Visits of the turn before this one.
    pub(crate) position: usize,
}

impl Sequence {
    /// The beginning of a turn of that kind, at or behind `number`.
    pub(crate) fn begin(plan: &Plan, kind: usize, number: u64) -> Self {
        Self { number: number.next_multiple_of(plan.visits_max() as u64), kind, position: 0 }
    }

    /// Whether a turn of that kind begins here.
    pub(crate) const fn begins(&self, kind: usize) -> bool {
        self.kind == kind && self.position == 0
    }

    /// The unit that is visited here; none in an empty turn.
    pub(crate) fn unit(&self, plan: &Plan) -> Option<UnitId> {
        Some(plan.cycles().get(self.kind)?.visits.get(self.position)?.unit)
    }

    /// Goes on to the next visit. A turn is taken to be followed by one of its own kind.
    pub(crate) fn advance(&mut self, plan: &Plan) {
        let visits = plan.cycles().get(self.kind).map_or(0, |cycle| cycle.visits.len());
        self.number += 1;
        self.position += 1;
        if self.position >= visits {
            *self = Self::begin(plan, self.kind, self.number);
        }
    }
}
