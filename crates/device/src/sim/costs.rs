use super::rates::as_f64;

/// What the calls on memory take on the host, in virtual time.
///
/// Each call takes a constant, something for each page and each map that it is about, and something for each chunk that exists: a driver looks its handles up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoryCosts {
    /// Addresses are reserved; whatever the length.
    pub reserve: CallCost,
    /// A chunk is created.
    pub create: CallCost,
    /// A chunk is destroyed.
    pub destroy: CallCost,
    /// A chunk is mapped.
    pub map: CallCost,
    /// Addresses are opened: one call over any number of chunks.
    pub set_access: CallCost,
    /// Addresses are unmapped.
    pub unmap: CallCost,
}

/// What one call takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CallCost {
    /// For the call itself.
    pub seconds: f64,
    /// For each page.
    pub seconds_per_page: f64,
    /// For each chunk that exists before it.
    pub seconds_per_chunk: f64,
    /// For each map that it is about: of the calls that are about more than one, opening and unmapping.
    pub seconds_per_map: f64,
}

impl MemoryCosts {
    /// An A100 with pages of 2 MiB, from what kvcached's `bench_vmm` prints for 4,096 chunks of a page: reserve 19 us, create 193 us on average, map 1.45 us, set
    /// access 36 us, unmap 25.6 us.
    ///
    /// Its percentiles of create (half 195, nine tenths 339, all but a hundredth 381 us) are those of a cost that grows evenly from nothing with the
    /// chunks that exist, so it is entered as that. Nobody has measured what a longer chunk or run takes: as many pages as one. Destroying is taken to cost what unmapping does.
    pub const A100: Self = Self {
        reserve: CallCost::of(19.0e-6),
        create: CallCost { seconds_per_chunk: 2.0 * 193.0e-6 / 4096.0, ..CallCost::of(0.0) },
        destroy: CallCost::of(25.6e-6),
        map: CallCost::of(1.45e-6),
        set_access: CallCost::of(36.0e-6),
        unmap: CallCost::of(25.6e-6),
    };

    /// Where such calls take no time.
    pub const FREE: Self = Self {
        reserve: CallCost::of(0.0),
        create: CallCost::of(0.0),
        destroy: CallCost::of(0.0),
        map: CallCost::of(0.0),
        set_access: CallCost::of(0.0),
        unmap: CallCost::of(0.0),
    };

    /// An H100 SXM with driver 580.159 (`benches/results/2026-11-27-h100`, `machine-2`): create 8.1 us and map 1.0 us at any length, set access 21 us for 2 MiB and 42 for 32, as much for
    /// each map of a run as for one alone; unmap 15 and 23 us, destroy 10 us and more. With a thousand chunks the same. Reserving was not measured: as on the A100.
    pub const H100: Self = Self {
        reserve: CallCost::of(19.0e-6),
        create: CallCost::of(8.1e-6),
        destroy: CallCost::of(10.0e-6),
        map: CallCost::of(1.0e-6),
        set_access: CallCost { seconds_per_page: 1.4e-6, seconds_per_map: 19.6e-6, ..CallCost::of(0.0) },
        unmap: CallCost { seconds_per_page: 0.5e-6, seconds_per_map: 14.5e-6, ..CallCost::of(0.0) },
    };
}

impl CallCost {
    /// The same for every call.
    #[must_use]
    pub const fn of(seconds: f64) -> Self {
        Self { seconds, seconds_per_page: 0.0, seconds_per_chunk: 0.0, seconds_per_map: 0.0 }
    }

    /// Of a call about so many pages in so many maps, beside so many chunks.
    #[must_use]
    pub const fn seconds(&self, pages: u64, maps: u64, chunks: u64) -> f64 {
        let Self { seconds, seconds_per_page, seconds_per_chunk, seconds_per_map } = *self;
        seconds
            + seconds_per_page * as_f64(pages)
            + seconds_per_map * as_f64(maps)
            + seconds_per_chunk * as_f64(chunks)
    }
}

/// How often a [`Sim`](super::Sim) was asked for each thing about memory; calls that it refused count too.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoryCalls {
    /// Addresses reserved.
    pub reserves: u64,
    /// Chunks created.
    pub creates: u64,
    /// Chunks destroyed.
    pub destroys: u64,
    /// Chunks mapped.
    pub maps: u64,
    /// Ranges opened.
    pub grants: u64,
    /// Ranges unmapped.
    pub unmaps: u64,
    /// Times that the host waited for a stream or an event. No call waits for the whole device.
    pub host_waits: u64,
    /// Virtual seconds of the calls on memory, by [`MemoryCosts`].
    pub seconds: f64,
}

impl MemoryCalls {
    /// Calls that map, open or unmap.
    #[must_use]
    pub const fn map_type(&self) -> u64 {
        self.maps + self.grants + self.unmaps
    }
}
