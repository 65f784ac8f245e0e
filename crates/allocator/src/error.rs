use std::collections::BTreeMap;
use std::fmt;

use lighterage_device::{Error as DeviceError, Purpose};

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why there is no memory, or what the device reported. The pool is as usable after it as before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Neither the pool nor the ledger nor the device has room for a request.
    #[error("{0}")]
    OutOfMemory(Box<OutOfMemory>),
    /// An [`Allocator`](crate::Allocator) found no room for a request, on any rung of its ladder.
    #[error("{0}")]
    OutOfBudget(Box<OutOfBudget>),
    /// A handle whose memory was given back before.
    #[error("stale handle: its {bytes} bytes were given back before")]
    StaleHandle {
        /// What it held.
        bytes: u64,
    },
    /// A stream of another device, or one that the allocator was never given.
    #[error("a stream of another allocator")]
    ForeignStream,
    /// A pressure handler asked for memory.
    #[error("a pressure handler asked for {requested} bytes: it may only give back")]
    Reentrant {
        /// Bytes of the request.
        requested: u64,
    },
    /// A step that may allocate nothing beyond its plan asked for something else.
    #[error(
        "request {position} of a captured step is {requested} bytes ({tag}), the plan has {planned:?}: nothing may be allocated while capturing"
    )]
    OffPlan {
        /// Which request of the step, from 0 on.
        position: usize,
        /// Bytes of the request.
        requested: u64,
        /// What for.
        tag: &'static str,
        /// Bytes of the plan's request, if it has so many.
        planned: Option<u64>,
    },
    /// A key has no plan.
    #[error("step {key:?}: {reason}")]
    Step {
        /// The step's key.
        key: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A text of settings cannot be read: see [`Settings::parse`](crate::Settings::parse).
    #[error("settings, byte {position}: {reason}")]
    Settings {
        /// Byte at which it went wrong.
        position: usize,
        /// What is wrong.
        reason: String,
    },
    /// A handle that another allocator gave out.
    #[error("a handle of another allocator: {bytes} bytes")]
    ForeignHandle {
        /// What it holds.
        bytes: u64,
    },
    /// A trace cannot be read.
    #[error("{format} at {position}: {reason}")]
    Trace {
        /// What was read.
        format: &'static str,
        /// Byte, line or record where it went wrong.
        position: usize,
        /// What is wrong.
        reason: String,
    },
    /// The device failed for another reason than memory.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// The numbers of a request that found no room on any rung.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutOfBudget {
    /// Bytes of the request, as asked for; 0 counts as 1.
    pub requested: u64,
    /// What the request was for.
    pub tag: &'static str,
    /// What is granted at most.
    pub limit: u64,
    /// Bytes granted by purpose; purposes without bytes are left out.
    pub granted: Vec<(Purpose, u64)>,
    /// Bytes handed out.
    pub allocated: u64,
    /// The longest free block: where it is longer than the request, another stream's work may still use it.
    pub largest_free: u64,
    /// Bytes in chunks that are mapped nowhere.
    pub idle: u64,
    /// Bytes given back that other streams may still use.
    pub pending: u64,
    /// Bytes in pages that hold something but are not full: what lies beside it there is lost for bigger requests.
    pub pinned: u64,
    /// Bytes that were still missing.
    pub missing: u64,
    /// Who holds the most, at most [`OutOfMemory::TAGS_MAX`] tags with their bytes, the largest first.
    pub tags: Vec<(&'static str, u64)>,
    /// Who refused last.
    pub cause: Option<DeviceError>,
}

impl fmt::Display for OutOfBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requested, tag, limit, allocated, largest_free, idle, pending, pinned, missing, .. } =
            self;
        write!(
            f,
            "no memory for {requested} bytes ({tag}), {missing} bytes missing under the limit of {limit}; granted:"
        )?;
        list(f, &self.granted)?;
        write!(
            f,
            "; {allocated} bytes handed out, longest free block {largest_free}, idle {idle}, pending {pending}, pinned {pinned}; held by:"
        )?;
        list(f, &self.tags)?;
        self.cause.as_ref().map_or(Ok(()), |cause| write!(f, "; {cause}"))
    }
}

fn list(f: &mut fmt::Formatter<'_>, items: &[(impl fmt::Display, u64)]) -> fmt::Result {
    if items.is_empty() {
        f.write_str(" nobody")?;
    }
    for (index, (name, bytes)) in items.iter().enumerate() {
        write!(f, "{} {name} {bytes}", if index == 0 { "" } else { "," })?;
    }
    Ok(())
}

/// The numbers of a request that found no room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes of the request.
    pub requested: u64,
    /// What the request was for.
    pub tag: &'static str,
    /// Bytes handed out before the request.
    pub allocated: u64,
    /// Physical bytes that the pool held before the request.
    pub reserved: u64,
    /// The longest free range of addresses.
    pub largest_free: u64,
    /// The pool's whole range of addresses.
    pub address_bytes: u64,
    /// The ledger's cap.
    pub cap: u64,
    /// Who holds the most, at most [`OutOfMemory::TAGS_MAX`] tags with their bytes, the largest first.
    pub tags: Vec<(&'static str, u64)>,
    /// Who refused: the ledger or the device. None if the range of addresses is too short.
    pub cause: Option<DeviceError>,
}

impl OutOfMemory {
    /// The most tags that a report lists.
    pub const TAGS_MAX: usize = 5;
}

/// Adds up what is held by tag: the largest first, equal ones by name, at most [`OutOfMemory::TAGS_MAX`].
pub(crate) fn top_tags(held: impl Iterator<Item = (&'static str, u64)>) -> Vec<(&'static str, u64)> {
    let mut by_tag: BTreeMap<&'static str, u64> = BTreeMap::new();
    for (tag, bytes) in held {
        *by_tag.entry(tag).or_default() += bytes;
    }
    let mut tags: Vec<_> = by_tag.into_iter().collect();
    // The sort is stable: equal sizes stay in the order of their names.
    tags.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    tags.truncate(OutOfMemory::TAGS_MAX);
    tags
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requested, tag, allocated, reserved, largest_free, address_bytes, cap, .. } = self;
        write!(
            f,
            "no memory for {requested} bytes ({tag}): {allocated} bytes in use, {reserved} reserved, largest free range \
             {largest_free} of {address_bytes} bytes of addresses, cap {cap}; held by:"
        )?;
        list(f, &self.tags)?;
        self.cause.as_ref().map_or(Ok(()), |cause| write!(f, "; {cause}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_names_every_number() {
        let report = OutOfMemory {
            requested: 1,
            tag: "scores",
            allocated: 2,
            reserved: 3,
            largest_free: 4,
            address_bytes: 5,
            cap: 6,
            tags: vec![("hidden", 7), ("query", 8)],
            cause: None,
        };
        assert_eq!(
            report.to_string(),
            "no memory for 1 bytes (scores): 2 bytes in use, 3 reserved, largest free range 4 of 5 bytes of addresses, \
             cap 6; held by: hidden 7, query 8"
        );
    }
}
