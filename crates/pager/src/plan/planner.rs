use std::sync::Arc;

use super::search::Question;
use super::tape::Tape;
use super::{Goal, Plan, Source, with_times};
use crate::units::{UnitId, Units};
use crate::{Error, Result};

/// Plans of one run for many budgets: what does not depend on the budget is made once.
///
/// ```
/// # use lighterage_checkpoint::{Checkpoint, Shape};
/// # use lighterage_pager::{TensorSpec, UnitSpec, Units};
/// # use lighterage_shape::DType;
/// use lighterage_pager::{Cycle, Goal, Plan, Planner};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let shapes: Vec<Shape> = (0..4).map(|n| Shape { name: n.to_string(), extents: vec![256, 256] }).collect();
/// # let checkpoint = Checkpoint::of_shapes("model", DType::Bf16, &shapes)?;
/// # let mut units = Units::default();
/// # let mut cycle = Vec::new();
/// # for shape in &shapes {
/// #     let weight = TensorSpec::whole(&checkpoint, &shape.name, &shape.extents, DType::Bf16)?;
/// #     cycle.push(units.add(UnitSpec { name: shape.name.clone(), tensors: vec![weight] }));
/// # }
/// let cycles = vec![Cycle { turns: 20, ..Cycle::untimed(&cycle) }];
/// let planner = Planner::new(&units, Goal::new(cycles, 0, 64 << 10));
/// for budget in [planner.minimum_bytes(), 320 << 10, planner.maximum_bytes()] {
///     assert!(planner.within(budget)?.bytes() <= budget);
/// }
/// assert!(planner.within(planner.minimum_bytes() - 1).is_err());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Planner {
    /// Units one behind the other, and so that none needs more pages than it has bytes for: the second is for budgets that are too small for the first.
    tapes: [Arc<Tape>; 2],
    goal: Goal,
    largest: String,
}

impl Planner {
    /// For the runs of `goal`, whatever budget that has.
    ///
    /// # Panics
    /// As [`Plan::resident`].
    #[must_use]
    pub fn new(units: &Units, goal: Goal) -> Self {
        let goal = with_times(units, goal);
        let order = || goal.cycles.iter().flat_map(|cycle| cycle.visits.iter().map(|visit| visit.unit));
        let tapes =
            [false, true].map(|is_tight| Arc::new(Tape::new(units, order(), goal.page_bytes, is_tight)));
        let largest: Option<UnitId> = order().max_by_key(|unit| units.bytes(*unit));
        let largest = largest.map(|unit| units.get(unit).name.clone()).unwrap_or_default();
        Self { tapes, goal, largest }
    }

    /// The same with weights that come from there.
    #[must_use]
    pub fn fed_from(mut self, source: Source) -> Self {
        self.goal.source = source;
        self
    }

    /// The smallest budget where one lease is held at a time, in bytes: [`Plan::minimum`].
    #[must_use]
    pub fn minimum_bytes(&self) -> u64 {
        let [_, tight] = &self.tapes;
        u64::from(tight.touched_max()) * tight.page_bytes
    }

    /// The budget from which on everything is resident, in bytes.
    #[must_use]
    pub fn maximum_bytes(&self) -> u64 {
        let [loose, _] = &self.tapes;
        u64::from(loose.pages) * loose.page_bytes
    }

    /// The name of the largest unit, which [`minimum_bytes`](Self::minimum_bytes) is for.
    #[must_use]
    pub fn largest_unit(&self) -> &str {
        &self.largest
    }

    /// The plan with the shortest turns in so many bytes: see [`Plan::new`].
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn within(&self, budget_bytes: u64) -> Result<Plan> {
        let goal = Goal { budget_bytes, ..self.goal.clone() };
        let (kind, cycles) = (goal.first_kind, goal.cycles.len());
        // Without any turn nothing comes first.
        if kind >= cycles.max(1) {
            return Err(Error::Turn { kind, cycles });
        }
        for tape in &self.tapes {
            if let Some(choice) = Question::new(tape, &goal).answer() {
                return Ok(Plan::of(Arc::clone(tape), choice, &goal));
            }
        }
        let (needed, largest) = (self.minimum_bytes(), self.largest.clone());
        Err(Error::Budget { needed, budget: budget_bytes, largest })
    }
}
