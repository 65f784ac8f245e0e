use crate::plan::filling::HostRates;
use crate::plan::timing::as_f64;
use crate::units::UnitId;

/// What a plan is made for, beside the units themselves.
#[derive(Clone, Debug)]
pub struct Goal {
    /// The kinds of turns that the run consists of, the longest first.
    pub cycles: Vec<Cycle>,
    /// What weights come over.
    pub link: Link,
    /// Device memory for weights, in bytes.
    pub budget_bytes: u64,
    /// Page of the device.
    pub page_bytes: u64,
    /// How many leases are held at once.
    pub held: usize,
    /// How streamed bytes get from the files to where copies read them.
    pub source: Source,
    /// How fast the host does that.
    pub host: HostRates,
    /// The kind of the first turn: a number of a cycle.
    pub first_kind: usize,
}

/// Where weights that are streamed more than once lie page-locked, if the host's budget holds them; what it does not hold goes through two stages in every turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Source {
    /// In an arena of their exact size, copied from the files once.
    #[default]
    Copied,
    /// In the mapped files, which are page-locked as they lie, in windows of at most 256 MiB. What is converted on the way is copied all the same, and so is
    /// what the driver refuses, window by window.
    Registered,
}

impl Goal {
    /// Over a link of which nothing is known, and with one lease at a time.
    #[must_use]
    pub const fn new(cycles: Vec<Cycle>, budget_bytes: u64, page_bytes: u64) -> Self {
        let (link, source, host) = (Link::UNIT, Source::Copied, HostRates::FREE);
        Self { cycles, link, budget_bytes, page_bytes, held: 1, source, host, first_kind: 0 }
    }
}

/// One kind of turn: which units are leased in which order, and how long the launches take.
///
/// A step of the denoising loop is a turn; a step without the control network is another kind of turn.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cycle {
    /// In order.
    pub visits: Vec<Visit>,
    /// How many turns of this kind the run has. One that has a single turn in all copies its weights without page-locking them; more than planned change no byte.
    pub turns: u64,
}

/// One lease of a unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Visit {
    /// The unit.
    pub unit: UnitId,
    /// Seconds of the launches while the lease is held.
    pub held_seconds: f64,
    /// Seconds of the launches between its end and the next lease.
    pub then_seconds: f64,
}

/// How fast bytes come to the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Bytes per second.
    pub bytes_per_second: f64,
    /// Seconds of a copy before its first byte.
    pub copy_seconds: f64,
    /// By how much of itself a launch is slower while a copy runs beside it.
    pub slowdown: f64,
}

impl Link {
    /// Of one copy.
    pub(crate) const fn seconds(&self, bytes: u64) -> f64 {
        self.copy_seconds + as_f64(bytes) / self.bytes_per_second
    }

    /// Where nothing is known: a second for a byte.
    pub const UNIT: Self = Self { bytes_per_second: 1.0, copy_seconds: 0.0, slowdown: 0.0 };
}

impl Cycle {
    /// A cycle whose times nobody knows.
    #[must_use]
    pub fn untimed(units: &[UnitId]) -> Self {
        let visit = |unit: &UnitId| Visit { unit: *unit, held_seconds: 0.0, then_seconds: 0.0 };
        Self { visits: units.iter().map(visit).collect(), turns: 1 }
    }

    /// Seconds of all launches of a turn.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.visits.iter().map(Visit::seconds).sum()
    }
}

impl Visit {
    /// From its lease to the next one's, if nothing had to be waited for.
    #[must_use]
    pub const fn seconds(&self) -> f64 {
        self.held_seconds + self.then_seconds
    }
}
