use std::sync::atomic::{AtomicU64, Ordering};

use lighterage_device::Clock;

/// Classes of times: powers of two.
const CLASSES: usize = u64::BITS as usize;

/// How many calls took about how long, by the device's clock: see [`Settings::times`](crate::Settings::times).
///
/// ```
/// use lighterage_allocator::{Allocator, Settings, Tag};
/// use lighterage_device::{Device, Host, HostConfig, Ledger, StreamKind};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let device = Device::new(Host::new(HostConfig::default())?, Ledger::new(1 << 30), Ledger::new(0));
/// let allocator = Allocator::new(&device, Settings::parse("times:True")?)?;
/// let on = allocator.on(&device.stream(StreamKind::Compute)?)?;
/// for _ in 0..10 {
///     on.free(on.allocate(1000, Tag::NONE)?)?;
/// }
/// let times = allocator.statistics().allocate_times;
/// assert_eq!(times.iter().map(|(_from_ns, count)| count).sum::<u64>(), 10);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times([u64; CLASSES]);

impl Times {
    /// The least nanoseconds of each class that has any calls, and how many: a class reaches up to the next power of two, the first one from 0.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let classes = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        classes.map(|(power, count)| (if power == 0 { 0 } else { 1 << power }, *count))
    }
}

impl Default for Times {
    fn default() -> Self {
        Self([0; CLASSES])
    }
}

/// Counts calls of one kind by what they take. Threads count at once: nothing is ordered by it.
#[derive(Debug)]
pub(crate) struct Watch {
    clock: Clock,
    counts: [AtomicU64; CLASSES],
}

impl Watch {
    pub(crate) fn new(clock: &Clock) -> Self {
        Self { clock: clock.clone(), counts: [const { AtomicU64::new(0) }; CLASSES] }
    }

    /// Does something, and counts how long it took.
    pub(crate) fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = self.clock.now_ns();
        let done = work();
        let taken = self.clock.now_ns().saturating_sub(start);
        self.counts[taken.max(1).ilog2() as usize].fetch_add(1, Ordering::Relaxed);
        done
    }

    pub(crate) fn times(&self) -> Times {
        Times(self.counts.each_ref().map(|count| count.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn calls_are_counted_by_powers_of_two() {
        let now = Arc::new(AtomicU64::new(0));
        let watch = Watch::new(&Clock::virtual_by(Arc::clone(&now)));
        for taken in [0, 1, 2, 3, 1000, 1023, 1024] {
            assert_eq!(
                watch.time(|| now.fetch_add(taken, Ordering::Relaxed) + taken),
                now.load(Ordering::Relaxed)
            );
        }
        assert_eq!(watch.times().iter().collect::<Vec<_>>(), [(0, 2), (2, 2), (512, 2), (1024, 1)]);
    }
}
