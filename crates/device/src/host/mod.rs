//! To come: the host backend.
use crate::Isa;

/// How a [`Host`] device is made.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Physical bytes that it has.
    pub capacity_bytes: u64,
    /// Page: a power of two, at least the system's page.
    pub page_bytes: u64,
    /// Worker threads; 0: one for each core.
    pub threads: usize,
    /// Instructions; none: the fastest that the machine has.
    pub isa: Option<Isa>,
    /// Bytes per second of copies between host and device; none: as fast as they go.
    pub link_bytes_per_second: Option<f64>,
    /// Seeded mode: one thread, the interleaving of the streams drawn from this seed, memory in flight poisoned.
    pub seed: Option<u64>,
    /// Seeded mode: the n-th driver call (counted from 0) fails.
    pub fail_call: Option<u64>,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self { capacity_bytes: 1 << 40, page_bytes: 64 << 10, threads: 0, isa: None, link_bytes_per_second: None, seed: None, fail_call: None }
    }
}
