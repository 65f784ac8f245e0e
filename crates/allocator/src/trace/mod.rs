//! Sequences of requests: recorded, read from files, and planned.

mod binary;
mod columns;
mod pickled;
mod plan;
mod recorder;
mod replay;
mod rmm;
mod snapshot;

use std::collections::BTreeMap;

#[cfg(test)]
pub(crate) use pickled::{Pickled, Value};
pub(crate) use plan::{Life, ORDERS, Placed, is_sound, live_peak, lives};
pub use plan::{Plan, Slot};
pub use replay::Replay;
pub(crate) use rmm::{Row, RowAction, rmm_csv};

/// One request or its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Memory is asked for.
    Alloc {
        /// Names it until it is given back.
        id: u32,
        /// Number of the stream.
        stream: u8,
        /// How many.
        bytes: u64,
    },
    /// Memory is given back.
    Free {
        /// Which.
        id: u32,
    },
}

/// A sequence of requests, in which each id is alive at most once at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    ops: Vec<Op>,
}

impl Trace {
    /// The sequence of those ops that make sense: an allocation whose id is alive and the end of an id that is not are left out.
    #[must_use]
    pub fn new(ops: impl IntoIterator<Item = Op>) -> Self {
        let mut alive = BTreeMap::new();
        let sensible = ops.into_iter().filter(|op| match op {
            Op::Alloc { id, .. } if alive.contains_key(id) => false,
            Op::Alloc { id, bytes, .. } => alive.insert(*id, *bytes).is_none(),
            Op::Free { id } => alive.remove(id).is_some(),
        });
        Self { ops: sensible.collect() }
    }

    /// The ops in order.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// How many streams: one more than the highest number.
    #[must_use]
    pub fn streams(&self) -> usize {
        let number = |op: &Op| match op {
            Op::Alloc { stream, .. } => usize::from(*stream) + 1,
            Op::Free { .. } => 1,
        };
        self.ops.iter().map(number).max().unwrap_or(1)
    }

    /// One more than the highest id.
    #[must_use]
    pub fn ids(&self) -> usize {
        let id = |op: &Op| match op {
            Op::Alloc { id, .. } | Op::Free { id } => *id as usize + 1,
        };
        self.ops.iter().map(id).max().unwrap_or(0)
    }

    /// The most bytes alive at once, as asked for.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        let mut bytes_of = vec![0; self.ids()];
        let (mut live, mut peak) = (0_u64, 0);
        for op in &self.ops {
            match *op {
                Op::Alloc { id, bytes, .. } => {
                    bytes_of[id as usize] = bytes;
                    live += bytes;
                    peak = peak.max(live);
                }
                Op::Free { id } => live -= std::mem::take(&mut bytes_of[id as usize]),
            }
        }
        peak
    }
}
