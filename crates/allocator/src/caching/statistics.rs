use std::collections::BTreeMap;

use lighterage_device::Backend;

use super::allocator::Allocator;
use super::block::{Heap, State};
use super::counts::{Events, Gauge, PoolCounts};
use crate::ALIGNMENT_BYTES;

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
    /// Free blocks shorter than a page, which no page can be taken from.
    pub inactive_split: u64,
    /// Their bytes.
    pub inactive_split_bytes: u64,
    /// Chunks of one page.
    pub small_chunks: u64,
    /// Chunks of more pages.
    pub big_chunks: u64,
    /// Bytes of addresses reserved.
    pub address_bytes: u64,
    /// What the ledger grants at most.
    pub budget_limit_bytes: u64,
    /// What it granted to others than this allocator.
    pub external_bytes: u64,
}

impl AllocatorStatistics {
    /// By PyTorch's key names where the meaning is the same, and by ours.
    ///
    /// Of PyTorch's keys those of segments are missing (a heap has none), and `inactive_split` has only its present value.
    #[must_use]
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        let mut map = BTreeMap::new();
        for (pool, counts) in
            [("all", &self.all), ("small_pool", &self.small_pool), ("large_pool", &self.large_pool)]
        {
            counts.add_to(&mut map, pool);
        }
        let events = &self.events;
        let scalars = [
            ("inactive_split.all.current", self.inactive_split),
            ("inactive_split_bytes.all.current", self.inactive_split_bytes),
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
        map.extend((1..).zip(events.rungs).map(|(rung, count)| (format!("ladder_rung.{rung}"), count)));
        map
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
        for (metric, Gauge { current, peak, allocated, freed }) in gauges {
            for (name, value) in
                [("current", current), ("peak", peak), ("allocated", allocated), ("freed", freed)]
            {
                map.insert(format!("{metric}.{pool}.{name}"), value);
            }
        }
    }
}

impl<B: Backend> Allocator<B> {
    /// All counters now. It walks the books: not for every request.
    #[must_use]
    pub fn statistics(&self) -> AllocatorStatistics {
        let ledger = self.device().ledger();
        let (budget_limit_bytes, granted) = (ledger.limit_bytes(), ledger.granted_bytes());
        let state = self.inner.heap();
        let core = &state.core;
        let [small_pool, large_pool] = Heap::ALL.map(|heap| core.counts.of(heap));
        let all = core.counts.all();
        let crumbs = core.blocks.iter().filter(|(_, block)| {
            block.state == State::Free && (ALIGNMENT_BYTES..core.page).contains(&block.bytes)
        });
        let (inactive_split, inactive_split_bytes) =
            crumbs.fold((0, 0), |(count, bytes), (_, block)| (count + 1, bytes + block.bytes));
        let big_chunks = core.chunks.iter().filter(|(_, book)| book.pages > 1).count() as u64;
        AllocatorStatistics {
            small_pool,
            large_pool,
            all,
            events: core.counts.events,
            idle_chunk_bytes: core.idle_bytes(),
            pinned_bytes: core.pinned_bytes(),
            inactive_split,
            inactive_split_bytes,
            small_chunks: core.chunks.iter().count() as u64 - big_chunks,
            big_chunks,
            address_bytes: core.regions.iter().map(|region| region.bytes).sum(),
            budget_limit_bytes,
            external_bytes: granted.saturating_sub(all.reserved_bytes.current),
        }
    }

    /// Sets all peaks to the present values.
    pub fn reset_peaks(&self) {
        self.inner.heap().core.counts.reset_peaks();
    }

    /// Starts a scope, which knows the peak within it when it ends; scopes nest, and the peaks outside are as if there had been none.
    #[must_use]
    pub fn scope(&self) -> Scope<B> {
        let mut state = self.inner.heap();
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
