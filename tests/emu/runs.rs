//! The ways in which every kernel is run: both modes, five orders of the threads.

use bytemuck::{Pod, bytes_of};
use lighterage_kernels::emu::{self, Config, Mode, Region, Report};
use lighterage_kernels::launch::Launches;

pub(crate) const SEEDS: [u64; 5] = [0, 1, 2, 3, 4];

/// Both modes, each with every seed.
pub(crate) fn all() -> impl Iterator<Item = Config> {
    [Mode::Eager, Mode::Late]
        .into_iter()
        .flat_map(|mode| SEEDS.map(|seed| Config { mode, seed, ..Config::default() }))
}

/// Runs the launches of one call, one after another, every access checked; the bytes that they moved together.
pub(crate) fn launch<P: Pod>(launches: &Launches, params: &P, regions: &[Region], config: Config) -> Report {
    assert!(!launches.as_slice().is_empty(), "no image");
    let mut total = Report::default();
    for launch in launches.as_slice() {
        // SAFETY: with checks an access outside of the regions ends the launch before it is made; they are buffers of the caller's.
        let outcome = unsafe {
            emu::launch(launch.image, launch.grid.into(), bytes_of(params), launch.maps(), regions, config)
        };
        let report = outcome.unwrap_or_else(|failure| panic!("{config:?}: {failure}"));
        total.global_bytes_read += report.global_bytes_read;
        total.global_bytes_written += report.global_bytes_written;
    }
    total
}
