use super::block::Heap;

/// A quantity over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    /// Now.
    pub current: u64,
    /// The most since the last reset.
    pub peak: u64,
    /// All increases added up.
    pub allocated: u64,
    /// All decreases added up.
    pub freed: u64,
}

impl Gauge {
    #[inline]
    pub(crate) const fn add(&mut self, amount: u64) {
        self.current += amount;
        self.allocated += amount;
        if self.current > self.peak {
            self.peak = self.current;
        }
    }

    #[inline]
    pub(crate) const fn sub(&mut self, amount: u64) {
        self.current -= amount;
        self.freed += amount;
    }
}

/// How many requests there were of about which size.
///
/// ```
/// use lighterage_allocator::{Allocator, Settings, Tag};
/// use lighterage_device::{Device, Ledger, Sim, SimConfig, StreamKind};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let device = Device::new(Sim::new(SimConfig::default())?, Ledger::new(1 << 30), Ledger::new(0));
/// let allocator = Allocator::new(&device, Settings::default())?;
/// let on = allocator.on(&device.stream(StreamKind::Compute)?)?;
/// for bytes in [1000, 1024, 2047] {
///     on.allocate(bytes, Tag::NONE)?;
/// }
/// assert_eq!(allocator.statistics().all.sizes.iter().collect::<Vec<_>>(), [(512, 1), (1024, 2)]);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes([u64; u64::BITS as usize]);

impl Sizes {
    /// The smallest size of each class that has any, and how many were asked for: a class reaches up to the next power of two.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().enumerate().filter(|(_, count)| **count > 0).map(|(power, count)| (1 << power, *count))
    }

    /// All requests.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    #[inline]
    const fn add(&mut self, requested: u64) {
        // No request is 0; to say so spares a look.
        self.0[(requested | 1).ilog2() as usize] += 1;
    }

    fn with(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
        self
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self([0; u64::BITS as usize])
    }
}

/// What is counted for each pool: the small heap, the large one, and both together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Blocks handed out.
    pub allocation: Gauge,
    /// Their bytes, rounded up to the alignment.
    pub allocated_bytes: Gauge,
    /// Their bytes as asked for.
    pub requested_bytes: Gauge,
    /// Blocks handed out, or given back while other streams use them.
    pub active: Gauge,
    /// Their bytes.
    pub active_bytes: Gauge,
    /// Physical memory: mapped in the heap; of both together also what is mapped nowhere.
    pub reserved_bytes: Gauge,
    /// Requests by size.
    pub sizes: Sizes,
}

/// Requests that a [`Magazine`](super::magazine::Magazine) served.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Served {
    /// Bytes, and bytes asked for.
    allocated: [u64; 2],
    sizes: Sizes,
}

impl Served {
    #[inline]
    pub(crate) const fn add(&mut self, bytes: u64, requested: u64) {
        self.allocated[0] += bytes;
        self.allocated[1] += requested;
        self.sizes.add(requested);
    }
}

/// A quantity and its peak, by how far it is below it: one subtraction counts an increase and says whether there is a new peak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Level {
    below: u64,
    peak: u64,
}

impl Level {
    #[inline]
    const fn add(&mut self, amount: u64) {
        let (below, is_peak) = self.below.overflowing_sub(amount);
        self.below = below;
        if is_peak {
            self.raise();
        }
    }

    /// After it went beyond its peak: by what is missing to 2^64.
    #[cold]
    #[inline(never)]
    const fn raise(&mut self) {
        self.peak += self.below.wrapping_neg();
        self.below = 0;
    }

    #[inline]
    const fn sub(&mut self, amount: u64) {
        self.below += amount;
    }

    const fn current(&self) -> u64 {
        self.peak - self.below
    }

    /// Sets the peak to the present value, or to a later one.
    const fn set_peak(&mut self, peak: u64) {
        let current = self.current();
        self.peak = if peak > current { peak } else { current };
        self.below = self.peak - current;
    }
}

/// Blocks, their bytes, and the bytes asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Levels([Level; 3]);

impl Levels {
    #[inline]
    const fn add(&mut self, bytes: u64, requested: u64) {
        let [blocks, all, wanted] = &mut self.0;
        blocks.add(1);
        all.add(bytes);
        wanted.add(requested);
    }

    #[inline]
    const fn sub(&mut self, bytes: u64, requested: u64) {
        let [blocks, all, wanted] = &mut self.0;
        blocks.sub(1);
        all.sub(bytes);
        wanted.sub(requested);
    }
}

/// The counters of one heap. What follows from others is not counted: this is the hot path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    levels: Levels,
    /// Bytes, and bytes asked for; how many blocks is the sum of the sizes.
    allocated: [u64; 2],
    sizes: Sizes,
    /// Blocks given back that other streams may still use, and their bytes.
    pending: [u64; 2],
    /// The most blocks and bytes handed out or pending, as far as anything was pending then.
    active_peak: [u64; 2],
    reserved: Gauge,
}

/// All counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    heaps: [Tally; 2],
    /// Of both heaps together, counted on its own: their peaks are no sum.
    levels: Levels,
    /// Blocks that are pending.
    pending: u64,
    active_peak: [u64; 2],
    reserved: Gauge,
    pub(crate) events: Events,
}

/// Things that happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Requests for which something was given back first, and that then found room.
    pub retries: u64,
    /// Requests refused.
    pub ooms: u64,
    /// Chunks created.
    pub creates: u64,
    /// Chunks destroyed.
    pub destroys: u64,
    /// Calls that map a chunk.
    pub maps: u64,
    /// Calls that open mapped addresses.
    pub grants: u64,
    /// Calls that unmap.
    pub unmaps: u64,
    /// Chunks mapped at a new place, which would have been released and created again otherwise.
    pub remaps: u64,
    /// Times that empty pages were taken from free blocks.
    pub steals: u64,
    /// Big chunks given up for small ones.
    pub demotions: u64,
    /// Blocks taken without a wait that were not the own stream's alone: another one's, or anybody's, since the work on them was known to be done.
    pub cross_stream_free: u64,
    /// Blocks taken from another stream behind an inserted wait.
    pub cross_stream_waited: u64,
    /// By how many stamps those waits were ahead of what was done, added up.
    pub wait_distance: u64,
    /// Events recorded.
    pub records: u64,
    /// Times that the host waited for an event.
    pub host_waits: u64,
    /// Calls of pressure handlers.
    pub pressure_calls: u64,
    /// Bytes that they said they freed.
    pub pressure_bytes: u64,
    /// Requests served from a plan.
    pub plan_hits: u64,
    /// Requests within a step that its plan did not foresee.
    pub plan_misses: u64,
    /// Requests by the highest rung of the ladder that they needed, from the plan to refusal.
    pub rungs: [u64; 8],
}

impl Counts {
    #[inline]
    pub(crate) fn allocate(&mut self, heap: Heap, bytes: u64, requested: u64) {
        let tally = &mut self.heaps[heap.index()];
        tally.levels.add(bytes, requested);
        tally.allocated[0] += bytes;
        tally.allocated[1] += requested;
        tally.sizes.add(requested);
        self.levels.add(bytes, requested);
        if self.pending > 0 {
            self.note_active();
        }
    }

    #[inline]
    pub(crate) fn free(&mut self, heap: Heap, bytes: u64, requested: u64) {
        self.heaps[heap.index()].levels.sub(bytes, requested);
        self.levels.sub(bytes, requested);
    }

    pub(crate) fn free_later(&mut self, heap: Heap, bytes: u64, requested: u64) {
        self.free(heap, bytes, requested);
        let pending = &mut self.heaps[heap.index()].pending;
        pending[0] += 1;
        pending[1] += bytes;
        self.pending += 1;
        self.note_active();
    }

    pub(crate) fn end_pending(&mut self, heap: Heap, bytes: u64) {
        let pending = &mut self.heaps[heap.index()].pending;
        pending[0] -= 1;
        pending[1] -= bytes;
        self.pending -= 1;
    }

    /// Counts requests that were served elsewhere, all of which were given back or are counted as present.
    pub(crate) fn add_served(&mut self, heap: Heap, served: &Served) {
        let tally = &mut self.heaps[heap.index()];
        tally.allocated.iter_mut().zip(served.allocated).for_each(|(sum, more)| *sum += more);
        tally.sizes = tally.sizes.with(&served.sizes);
        self.events.rungs[1] += served.sizes.count();
    }

    /// Notes by which rung above the free blocks a request was served, and whether something was given back for it first.
    pub(crate) fn served_by(&mut self, rung: usize, is_retry: bool) {
        self.events.rungs[rung] += 1;
        self.events.retries += u64::from(is_retry);
    }

    /// Notes that a block holds another number of bytes that were asked for.
    pub(crate) fn relabel(&mut self, heap: Heap, before: u64, now: u64) {
        for levels in [&mut self.heaps[heap.index()].levels, &mut self.levels] {
            levels.0[2].sub(before);
            levels.0[2].add(now);
        }
    }

    /// Bytes handed out now.
    pub(crate) const fn allocated_bytes(&self) -> u64 {
        self.levels.0[1].current()
    }

    /// Bytes that other streams may still use.
    pub(crate) const fn pending_bytes(&self) -> u64 {
        let [small, large] = &self.heaps;
        small.pending[1] + large.pending[1]
    }

    /// Bytes in chunks now.
    pub(crate) const fn reserved_bytes(&self) -> u64 {
        self.reserved.current
    }

    pub(crate) fn create(&mut self, bytes: u64) {
        self.events.creates += 1;
        self.reserved.add(bytes);
    }

    pub(crate) fn destroy(&mut self, bytes: u64) {
        self.events.destroys += 1;
        self.reserved.sub(bytes);
    }

    pub(crate) fn map(&mut self, heap: Heap, bytes: u64) {
        self.heaps[heap.index()].reserved.add(bytes);
    }

    pub(crate) fn unmap(&mut self, heap: Heap, bytes: u64) {
        self.heaps[heap.index()].reserved.sub(bytes);
    }

    /// Both heaps together.
    pub(crate) fn all(&self) -> PoolCounts {
        let [small, large] = &self.heaps;
        let both = Tally {
            levels: self.levels,
            allocated: [0, 1].map(|position| small.allocated[position] + large.allocated[position]),
            sizes: small.sizes.with(&large.sizes),
            pending: [small.pending[0] + large.pending[0], small.pending[1] + large.pending[1]],
            active_peak: self.active_peak,
            reserved: self.reserved,
        };
        both.counts()
    }

    /// One heap.
    pub(crate) fn of(&self, heap: Heap) -> PoolCounts {
        self.heaps[heap.index()].counts()
    }

    pub(crate) fn reset_allocated_peak(&mut self) {
        self.levels.0[1].set_peak(0);
    }

    pub(crate) fn raise_allocated_peak(&mut self, peak: u64) {
        let bytes = &mut self.levels.0[1];
        bytes.set_peak(peak.max(bytes.peak));
    }

    /// Sets the peaks to the present values.
    pub(crate) fn reset_peaks(&mut self) {
        self.active_peak = [0; 2];
        self.reserved.peak = self.reserved.current;
        for tally in &mut self.heaps {
            tally.active_peak = [0; 2];
            tally.reserved.peak = tally.reserved.current;
            tally.levels.0.iter_mut().for_each(|level| level.set_peak(0));
        }
        self.levels.0.iter_mut().for_each(|level| level.set_peak(0));
        self.note_active();
    }

    #[cold]
    #[inline(never)]
    fn note_active(&mut self) {
        let mut both = [0; 2];
        for tally in &mut self.heaps {
            for (position, sum) in both.iter_mut().enumerate() {
                let active = tally.levels.0[position].current() + tally.pending[position];
                tally.active_peak[position] = tally.active_peak[position].max(active);
                *sum += active;
            }
        }
        for (peak, active) in self.active_peak.iter_mut().zip(both) {
            *peak = (*peak).max(active);
        }
    }
}

impl Tally {
    fn counts(&self) -> PoolCounts {
        let allocated = [self.sizes.count(), self.allocated[0], self.allocated[1]];
        let gauge = |position: usize| {
            let (level, allocated): (Level, u64) = (self.levels.0[position], allocated[position]);
            let current = level.current();
            Gauge { current, peak: level.peak, allocated, freed: allocated - current }
        };
        let active = |position: usize| {
            let (level, allocated) = (self.levels.0[position], allocated[position]);
            let current = level.current() + self.pending[position];
            let peak = self.active_peak[position].max(level.peak);
            Gauge { current, peak, allocated, freed: allocated - current }
        };
        PoolCounts {
            allocation: gauge(0),
            allocated_bytes: gauge(1),
            requested_bytes: gauge(2),
            active: active(0),
            active_bytes: active(1),
            reserved_bytes: self.reserved,
            sizes: self.sizes,
        }
    }
}
