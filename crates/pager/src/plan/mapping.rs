//! What it takes to map a plan's pages, and to give them back.

use super::Plan;
use crate::memory;
use crate::plan::Home;

/// Seconds of the host at the beginning and at the end of a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Mapping {
    pub(super) begin_seconds: f64,
    pub(super) end_seconds: f64,
}

impl Mapping {
    /// The calls that a pager makes of its own memory: one reservation, a chunk for each page of the ring and for each run of resident pages, a map for each of those and for each
    /// streamed page, and all of it opened; in the end the same back.
    pub(super) fn of(plan: &Plan) -> Self {
        let costs = plan.host.memory_calls;
        let (pages, ring) = (plan.homes().len() as u64, u64::from(plan.ring_pages()));
        if pages == 0 {
            return Self::default();
        }
        let (mut mapping, mut chunks, mut maps) = (Self::default(), ring, 0);
        mapping.begin_seconds += costs.reserve.seconds(pages, 1, 0);
        mapping.begin_seconds += (0..ring).map(|chunk| costs.create.seconds(1, 1, chunk)).sum::<f64>();
        for run in memory::runs(plan.homes(), (0..).take(plan.homes().len()).collect()) {
            let pages = u64::from(run.end - run.start);
            if plan.homes()[run.start as usize] == Home::Resident {
                mapping.begin_seconds += costs.create.seconds(pages, 1, chunks);
                chunks += 1;
            }
            mapping.begin_seconds += costs.map.seconds(pages, 1, chunks);
            mapping.end_seconds += costs.unmap.seconds(pages, 1, chunks);
            maps += 1;
        }
        mapping.begin_seconds += costs.set_access.seconds(pages, maps, chunks);
        mapping.end_seconds += (0..chunks).map(|chunk| costs.destroy.seconds(0, 1, chunk)).sum::<f64>();
        mapping
    }
}
