use std::collections::BTreeMap;

use lighterage_device::Backend;

use super::allocator::Allocator;
use super::block::{Block, Heap, State};
use super::core::Core;
use super::counts::{Events, Gauge, PoolCounts};
use super::ring::{Action, Event};
use super::tags::Tags;
use super::times::{Times, Watch};

/// What an [`Allocator`] holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllocatorStatistics {
    /// Requests up to 1 MiB.
    pub small_pool: PoolCounts,
    /// Larger ones.
    pub large_pool: PoolCounts,
    /// Both.
    pub all: PoolCounts,
    /// What happened.
    pub events: Events,
    /// Bytes in chunks that are mapped nowhere.
    pub idle_chunk_bytes: u64,
    /// Bytes beside others in chunks that hold something: lost for requests of pages.
    pub pinned_bytes: u64,
    /// Free blocks of the small pool that are shorter than a page, so that no page can be taken from them.
    pub small_crumbs: Crumbs,
    /// Those of the large one.
    pub large_crumbs: Crumbs,
    /// Chunks of one page.
    pub small_chunks: u64,
    /// Chunks of more pages.
    pub big_chunks: u64,
    /// Bytes of addresses reserved.
    pub address_bytes: u64,
    /// What the ledger grants at most.
    pub budget_limit_bytes: u64,
    /// The least that was ever left of it, if it was the same all the time.
    pub budget_headroom_bytes_min: u64,
    /// What it granted to others than this allocator.
    pub external_bytes: u64,
    /// How long calls took that hand out, refusals among them, if [`Settings::times`](crate::Settings::times) says so.
    pub allocate_times: Times,
    /// And those that take back.
    pub free_times: Times,
}

/// Free blocks shorter than a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crumbs {
    /// How many.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl AllocatorStatistics {
    /// By PyTorch's key names where the meaning is the same, and by ours.
    ///
    /// All keys of `torch.cuda.memory_stats` are there, but for `max_split_size` (there is none) and the private pools'. As in PyTorch with expandable segments,
    /// `segment` counts none; nothing is oversize, since every block is split; `inactive_split` has its present value alone, which stands for its peak too.
    #[must_use]
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        let mut map = BTreeMap::new();
        for (pool, counts) in
            [("all", &self.all), ("small_pool", &self.small_pool), ("large_pool", &self.large_pool)]
        {
            counts.add_to(&mut map, pool);
        }
        for pool in ["all", "small_pool", "large_pool"] {
            add(&mut map, &format!("segment.{pool}"), Gauge::default());
        }
        let (small, large) = (self.small_crumbs, self.large_crumbs);
        let both = Crumbs { blocks: small.blocks + large.blocks, bytes: small.bytes + large.bytes };
        for (pool, crumbs) in [("all", both), ("small_pool", small), ("large_pool", large)] {
            for (metric, now) in [("inactive_split", crumbs.blocks), ("inactive_split_bytes", crumbs.bytes)] {
                let gauge = Gauge { current: now, peak: now, allocated: now, freed: 0 };
                add(&mut map, &format!("{metric}.{pool}"), gauge);
            }
        }
        for metric in ["oversize_allocations", "oversize_segments"] {
            add(&mut map, metric, Gauge::default());
        }
        let events = &self.events;
        let scalars = [
            ("num_oom_rejections", 0),
            ("num_alloc_retries", events.retries),
            ("num_ooms", events.ooms),
            ("num_sync_all_streams", 0),
            ("num_device_alloc", events.maps),
            ("num_device_free", events.unmaps),
            ("mapped_bytes", self.all.reserved_bytes.current - self.idle_chunk_bytes),
            ("idle_chunk_bytes", self.idle_chunk_bytes),
            ("pending_bytes", self.all.active_bytes.current - self.all.allocated_bytes.current),
            ("pinned_bytes", self.pinned_bytes),
            ("external_bytes", self.external_bytes),
            ("budget_limit", self.budget_limit_bytes),
            ("budget_min_headroom", self.budget_headroom_bytes_min),
            ("chunks.small", self.small_chunks),
            ("chunks.big", self.big_chunks),
            ("address_bytes", self.address_bytes),
            ("creates", events.creates),
            ("destroys", events.destroys),
            ("grants", events.grants),
            ("remaps", events.remaps),
            ("steals", events.steals),
            ("demotions", events.demotions),
            ("cross_stream_free", events.cross_stream_free),
            ("cross_stream_waited", events.cross_stream_waited),
            ("wait_distance", events.wait_distance),
            ("event_records", events.records),
            ("host_waits", events.host_waits),
            ("pressure_calls", events.pressure_calls),
            ("pressure_bytes", events.pressure_bytes),
            ("plan_hits", events.plan_hits),
            ("plan_misses", events.plan_misses),
        ];
        map.extend(scalars.map(|(name, value)| (name.to_owned(), value)));
        map.extend(self.all.sizes.iter().map(|(from, count)| (format!("sizes.{from}"), count)));
        for (call, times) in [("allocate_ns", &self.allocate_times), ("free_ns", &self.free_times)] {
            map.extend(times.iter().map(|(from, count)| (format!("{call}.{from}"), count)));
        }
        map.extend((1..).zip(events.rungs).map(|(rung, count)| (format!("ladder_rung.{rung}"), count)));
        map
    }
}

/// What the ledger and the watches say, which the lock of the books does not guard.
struct Granted {
    limit: u64,
    granted: u64,
    peak: u64,
    /// Of what hands out, and of what takes back.
    times: [Times; 2],
}

impl Granted {
    fn of<B: Backend>(allocator: &Allocator<B>) -> Self {
        let ledger = allocator.device().ledger();
        let watches = allocator.inner.watches.as_ref();
        Self {
            limit: ledger.limit_bytes(),
            granted: ledger.granted_bytes(),
            peak: ledger.peak_bytes(),
            times: watches.map_or([Times::default(); 2], |watches| watches.each_ref().map(Watch::times)),
        }
    }

    fn statistics(&self, core: &Core) -> AllocatorStatistics {
        let [small_pool, large_pool] = Heap::ALL.map(|heap| core.counts.of(heap));
        let all = core.counts.all();
        let mut crumbs = [Crumbs::default(); 2];
        let is_crumb =
            |block: &Block| matches!(block.state, State::Free | State::Kept) && block.bytes < core.page;
        for (_, block) in core.blocks.iter().filter(|(_, block)| is_crumb(block)) {
            let crumbs = &mut crumbs[block.heap.index()];
            crumbs.blocks += 1;
            crumbs.bytes += block.bytes;
        }
        let big_chunks = core.chunks.iter().filter(|(_, book)| book.pages > 1).count() as u64;
        AllocatorStatistics {
            small_pool,
            large_pool,
            all,
            events: core.counts.events,
            idle_chunk_bytes: core.idle_bytes(),
            pinned_bytes: core.pinned_bytes(),
            small_crumbs: crumbs[0],
            large_crumbs: crumbs[1],
            small_chunks: core.chunks.iter().count() as u64 - big_chunks,
            big_chunks,
            address_bytes: core.regions.iter().map(|region| region.bytes).sum(),
            budget_limit_bytes: self.limit,
            budget_headroom_bytes_min: self.limit.saturating_sub(self.peak),
            external_bytes: self.granted.saturating_sub(all.reserved_bytes.current),
            allocate_times: self.times[0],
            free_times: self.times[1],
        }
    }
}

impl PoolCounts {
    fn add_to(&self, map: &mut BTreeMap<String, u64>, pool: &str) {
        let gauges = [
            ("allocation", self.allocation),
            ("allocated_bytes", self.allocated_bytes),
            ("requested_bytes", self.requested_bytes),
            ("active", self.active),
            ("active_bytes", self.active_bytes),
            ("reserved_bytes", self.reserved_bytes),
        ];
        for (metric, gauge) in gauges {
            add(map, &format!("{metric}.{pool}"), gauge);
        }
    }
}

fn add(map: &mut BTreeMap<String, u64>, metric: &str, gauge: Gauge) {
    let Gauge { current, peak, allocated, freed } = gauge;
    for (name, value) in [("current", current), ("peak", peak), ("allocated", allocated), ("freed", freed)] {
        map.insert(format!("{metric}.{name}"), value);
    }
}

impl<B: Backend> Allocator<B> {
    /// All counters now. It walks the books: not for every request.
    #[must_use]
    pub fn statistics(&self) -> AllocatorStatistics {
        let ledger = Granted::of(self);
        ledger.statistics(&self.inner.whole().core)
    }

    /// Looks at the books while nobody changes them and no block is on its way.
    pub(crate) fn read_books<T>(&self, look: impl FnOnce(&Core, &Tags, AllocatorStatistics) -> T) -> T {
        let _growth = self.inner.growth.lock();
        let ledger = Granted::of(self);
        let state = self.inner.whole();
        look(&state.core, &state.tags, ledger.statistics(&state.core))
    }

    /// The latest events, the oldest first, and the number of the first of them; empty without [`Settings::trace_events`](crate::Settings::trace_events).
    #[must_use]
    pub fn trace(&self) -> (u64, Vec<Event>) {
        self.inner.heap().core.ring.read()
    }

    /// Puts a mark of the caller into the trace.
    pub fn mark(&self, number: u64) {
        self.inner.heap().core.ring.push(Event::pages(Action::Mark, number, 0));
    }

    /// Sets all peaks to the present values.
    pub fn reset_peaks(&self) {
        self.inner.whole().core.counts.reset_peaks();
    }

    /// Starts a scope, which knows the peak within it when it ends; scopes nest, and the peaks outside are as if there had been none.
    #[must_use]
    pub fn scope(&self) -> Scope<B> {
        let mut state = self.inner.whole();
        let outside = state.core.counts.all().allocated_bytes.peak;
        state.core.counts.reset_allocated_peak();
        drop(state);
        Scope { allocator: self.clone(), outside }
    }
}

/// A part of a program whose peak is wanted: see [`Allocator::scope`]. End scopes in the reverse order of their starts.
#[derive(Debug)]
pub struct Scope<B: Backend> {
    allocator: Allocator<B>,
    /// The peak before.
    outside: u64,
}

impl<B: Backend> Scope<B> {
    /// The most bytes handed out at once since the scope began.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.allocator.inner.heap().core.counts.all().allocated_bytes.peak
    }
}

impl<B: Backend> Drop for Scope<B> {
    fn drop(&mut self) {
        self.allocator.inner.heap().core.counts.raise_allocated_peak(self.outside);
    }
}
