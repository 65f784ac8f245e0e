use std::collections::BTreeMap;

use crate::plan::{Cycle, Visit};
use crate::units::UnitId;

/// The leases of a run in order, with what the device's model reckoned for the launches so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace {
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
enum Entry {
    /// A turn of this kind begins.
    Turn {
        kind: usize,
        at: f64,
    },
    Lease {
        unit: UnitId,
        at: f64,
        until: f64,
    },
}

impl Trace {
    pub(crate) fn turn(&mut self, kind: usize, at: f64) {
        self.entries.push(Entry::Turn { kind, at });
    }

    /// A lease begins; returns its number for its end.
    pub(crate) fn lease(&mut self, unit: UnitId, at: f64) -> usize {
        self.entries.push(Entry::Lease { unit, at, until: at });
        self.entries.len() - 1
    }

    pub(crate) fn release(&mut self, number: usize, at: f64) {
        if let Some(Entry::Lease { until, .. }) = self.entries.get_mut(number) {
            *until = at;
        }
    }

    pub(crate) fn units(&self) -> Vec<UnitId> {
        let unit = |entry: &Entry| match entry {
            Entry::Lease { unit, .. } => Some(*unit),
            Entry::Turn { .. } => None,
        };
        self.entries.iter().filter_map(unit).collect()
    }

    /// The kinds of turns that were seen, by their last one each. What comes before the first turn is no part of one, unless there is none.
    pub(crate) fn cycles(&self, now: f64) -> BTreeMap<usize, Cycle> {
        let starts: Vec<usize> = (0..self.entries.len())
            .filter(|index| matches!(self.entries[*index], Entry::Turn { .. }))
            .collect();
        let mut cycles: BTreeMap<usize, Cycle> = BTreeMap::new();
        if starts.is_empty() {
            cycles.insert(0, Cycle { turns: 1, ..cycle(&self.entries, self.start(), now) });
        }
        for (index, start) in starts.iter().enumerate() {
            let Entry::Turn { kind, at } = self.entries[*start] else { continue };
            let end = starts.get(index + 1).copied().unwrap_or(self.entries.len());
            let until = self.entries.get(end).map_or(now, Entry::at);
            let turns = cycles.get(&kind).map_or(0, |cycle| cycle.turns) + 1;
            cycles.insert(kind, Cycle { turns, ..cycle(&self.entries[start + 1..end], at, until) });
        }
        cycles
    }

    /// Where a run without turns is taken to begin: at its first lease.
    fn start(&self) -> f64 {
        self.entries.first().map_or(0.0, Entry::at)
    }
}

impl Entry {
    const fn at(&self) -> f64 {
        match self {
            Self::Turn { at, .. } | Self::Lease { at, .. } => *at,
        }
    }
}

/// One turn, from `start` to `end`. What it launches before its first lease it launches between its last and the next turn's first.
fn cycle(entries: &[Entry], start: f64, end: f64) -> Cycle {
    let leases: Vec<(UnitId, f64, f64)> = entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Lease { unit, at, until } => Some((*unit, *at, *until)),
            Entry::Turn { .. } => None,
        })
        .collect();
    let before = leases.first().map_or(0.0, |(_, at, _)| at - start);
    let next = leases.iter().skip(1).map(|(_, at, _)| *at).chain([end + before]);
    let visit = |((unit, at, until), next): (&(UnitId, f64, f64), f64)| Visit {
        unit: *unit,
        held_seconds: until.min(next) - at,
        then_seconds: (next - until).max(0.0),
    };
    Cycle { visits: leases.iter().zip(next).map(visit).collect(), turns: 0 }
}
