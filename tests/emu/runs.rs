//! The ways in which every kernel is run: both modes, five orders of the threads.

use lighterage_kernels::emu::{Config, Mode};

pub(crate) const SEEDS: [u64; 5] = [0, 1, 2, 3, 4];

/// Both modes, each with every seed.
pub(crate) fn all() -> impl Iterator<Item = Config> {
    [Mode::Eager, Mode::Late]
        .into_iter()
        .flat_map(|mode| SEEDS.map(|seed| Config { mode, seed, ..Config::default() }))
}
