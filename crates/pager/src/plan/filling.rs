//! What the host does for copies before they can begin: it page-locks memory and fills it from the files.

use lighterage_device::MemoryCosts;

use super::timing::as_f64;
use crate::arena::BLOCK_BYTES_MAX;
use crate::feed::STAGES;

/// How fast the host brings weights to where copies read them: the rates of a run's first turn, and of phases that have no other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HostRates {
    /// Bytes of memory that are page-locked in a second.
    pub lock_bytes_per_second: f64,
    /// Bytes that come from the files, or the page cache, into such memory in a second.
    pub read_bytes_per_second: f64,
    /// What calls on device memory take: a phase maps all of its pages before its first copy, and unmaps them in the end.
    pub memory_calls: MemoryCosts,
}

impl HostRates {
    /// Where it takes no time, or nothing is known.
    pub const FREE: Self = Self {
        lock_bytes_per_second: f64::INFINITY,
        read_bytes_per_second: f64::INFINITY,
        memory_calls: MemoryCosts::FREE,
    };
}

/// The host's thread in a first turn, as numbers: what it did so far, and until when that took it.
///
/// What is streamed again is page-locked block by block and filled; all else goes through two stages, each of which is filled when the copy before the last is through.
#[derive(Debug)]
pub(super) struct Filling {
    rates: HostRates,
    /// Bytes of the arena: of all blocks that will be page-locked.
    arena_bytes: u64,
    locked_bytes: u64,
    filled_bytes: u64,
    stage_bytes: u64,
    /// When the last copies from stages were through, the older one first.
    staged: [f64; STAGES],
    stages: usize,
    now: f64,
}

impl Filling {
    /// From `now` on.
    pub(super) fn new(rates: HostRates, arena_bytes: u64, stage_bytes: u64, now: f64) -> Self {
        Self {
            rates,
            arena_bytes,
            locked_bytes: 0,
            filled_bytes: 0,
            stage_bytes: stage_bytes.max(1),
            staged: [0.0; STAGES],
            stages: 0,
            now,
        }
    }

    /// When these bytes of the arena are there for a copy.
    pub(super) fn keep(&mut self, bytes: u64) -> f64 {
        self.filled_bytes += bytes;
        while self.locked_bytes < self.filled_bytes.min(self.arena_bytes) {
            let block = (self.arena_bytes - self.locked_bytes).min(BLOCK_BYTES_MAX);
            self.lock(block);
            self.locked_bytes += block;
        }
        self.now += as_f64(bytes) / self.rates.read_bytes_per_second;
        self.now
    }

    /// When these bytes, that begin to cross the link at `copied` at the earliest, have crossed it through the stages, stage by stage; `copy` says how long bytes take.
    pub(super) fn stage(&mut self, bytes: u64, mut copied: f64, copy: impl Fn(u64) -> f64) -> f64 {
        let mut left = bytes;
        while left > 0 {
            let part = left.min(self.stage_bytes);
            left -= part;
            if self.stages < STAGES {
                self.stages += 1;
                self.lock(self.stage_bytes);
            }
            self.now = self.now.max(self.staged[0]) + as_f64(part) / self.rates.read_bytes_per_second;
            copied = copied.max(self.now) + copy(part);
            self.staged.rotate_left(1);
            self.staged[STAGES - 1] = copied;
        }
        copied
    }

    fn lock(&mut self, bytes: u64) {
        self.now += as_f64(bytes) / self.rates.lock_bytes_per_second;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: HostRates =
        HostRates { lock_bytes_per_second: 2.0, read_bytes_per_second: 4.0, ..HostRates::FREE };

    #[test]
    fn an_arena_is_locked_before_it_is_filled() {
        let mut filling = Filling::new(RATES, 100, 8, 0.0);
        assert_eq!(filling.keep(40), 100.0 / 2.0 + 40.0 / 4.0, "one block, then its first bytes");
        assert_eq!(filling.keep(60), 50.0 + 25.0);
        let mut two = Filling::new(RATES, BLOCK_BYTES_MAX + 100, 8, 0.0);
        let block = as_f64(BLOCK_BYTES_MAX);
        assert_eq!(two.keep(BLOCK_BYTES_MAX), block / 2.0 + block / 4.0, "the second block can wait");
        assert_eq!(two.keep(4), block * 0.75 + 50.0 + 1.0);
    }

    #[test]
    fn a_stage_is_filled_while_the_other_is_copied() {
        let mut filling = Filling::new(RATES, 0, 8, 0.0);
        // Each stage takes 4 s to lock, 2 to fill and 8 to copy.
        let ends = filling.stage(24, 0.0, as_f64);
        assert_eq!(ends, 6.0 + 3.0 * 8.0, "the copies never wait after the first");
        assert_eq!(filling.now, 14.0 + 2.0, "the third fill waits for the first copy");
        let mut fast = Filling::new(RATES, 0, 8, 0.0);
        assert_eq!(
            fast.stage(24, 0.0, |_| 0.0),
            2.0 * 4.0 + 3.0 * 2.0,
            "a link that is faster than the host"
        );
    }
}
