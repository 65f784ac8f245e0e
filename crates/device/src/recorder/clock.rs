use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The one clock of a recording: the machine's, or a simulated device's own. Nothing but recordings reads it.
///
/// ```
/// use lighterage_device::Clock;
/// let clock = Clock::real();
/// assert!(clock.now_ns() <= clock.now_ns());
/// ```
#[derive(Clone, Debug)]
pub struct Clock(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Real(Instant),
    Virtual(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's, from now on.
    #[must_use]
    pub fn real() -> Self {
        Self(Kind::Real(Instant::now()))
    }

    /// One that says the nanoseconds which somebody else writes.
    #[must_use]
    pub const fn virtual_by(nanoseconds: Arc<AtomicU64>) -> Self {
        Self(Kind::Virtual(nanoseconds))
    }

    /// Nanoseconds since its beginning.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        match &self.0 {
            Kind::Real(start) => u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX),
            Kind::Virtual(nanoseconds) => nanoseconds.load(Ordering::Relaxed),
        }
    }
}
