use std::sync::Arc;

use crate::plan::{Cycle, Goal, Link, Plan};

impl Plan {
    /// The same residency and ring with other times: what to expect once it was measured how long launches and copies take.
    ///
    /// ```
    /// # use lighterage_pager::{Link, Plan, Units};
    /// let plan = Plan::resident(&Units::default(), &[], 4096);
    /// assert_eq!(plan.retimed(plan.cycles().to_vec(), Link::UNIT).turns()[0].seconds, 0.0);
    /// ```
    #[must_use]
    pub fn retimed(&self, cycles: Vec<Cycle>, link: Link) -> Self {
        let (source, host, first_kind) = (self.source, self.host, self.first_kind);
        let goal =
            Goal { link, source, host, first_kind, ..Goal::new(cycles, self.bytes(), self.page_bytes()) };
        Self::of(Arc::clone(&self.tape), self.choice.clone(), &goal)
    }
}
