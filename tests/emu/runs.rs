//! Where and how often every kernel is run: on the emulator in both modes, by five orders of the threads; on a GPU three times.
//!
//! The emulator is what is there with feature `emu`, unless `NUMERICS=cuda` is set; without that feature it is a GPU. What only the emulator sees (races, bytes moved,
//! conflicts of banks) comes as a [`Report`], which a GPU has none of; everything else holds on both.

use bytemuck::Pod;
use lighterage_kernels::launch::{Arch, Launches, Target};

use crate::gpu;
pub(crate) use emulator::{Config, Mode, Region, Report, Start};

#[cfg(not(feature = "emu"))]
mod emulator;
#[cfg(feature = "emu")]
use lighterage_kernels::emu as emulator;

pub(crate) const SEEDS: [u64; 5] = [0, 1, 2, 3, 4];

/// Both modes, each with every seed; on a GPU, which has neither, three runs.
pub(crate) fn all() -> impl Iterator<Item = Config> {
    let runs = if gpu::is_used() { 3 } else { usize::MAX };
    [Mode::Eager, Mode::Late]
        .into_iter()
        .flat_map(|mode| SEEDS.map(|seed| Config { mode, seed, ..Config::default() }))
        .take(runs)
}

/// Whether kernels for that target cannot run here: on a GPU of another architecture there is no Hopper.
pub(crate) fn lacks(target: Target) -> bool {
    gpu::is_used() && gpu::lacks(target.arch)
}

/// For kernels that are the same on every architecture: one on which their launches overlap, if they do anywhere; on a GPU its own.
pub(crate) fn target() -> Target {
    Target::typical(if gpu::is_used() { gpu::own_arch() } else { Arch::Sm90a })
}

/// Runs the launches of one call, one after another, every access checked; what was counted of them together.
pub(crate) fn launch<P: Pod + Send + Sync>(
    launches: &Launches,
    params: &P,
    regions: &[Region],
    config: Config,
) -> Option<Report> {
    assert!(!launches.as_slice().is_empty(), "no image");
    if gpu::is_used() {
        gpu::launch(launches, params);
        return None;
    }
    Some(emulated(launches, params, regions, config))
}

#[cfg(feature = "emu")]
fn emulated<P: Pod>(launches: &Launches, params: &P, regions: &[Region], config: Config) -> Report {
    let mut total = Report::default();
    // What overlaps has to wait before it touches any memory: another launch may have written it.
    let mut stream = emulator::Stream::behind_anything();
    for launch in launches.as_slice() {
        let start = if launch.overlaps { Start::Overlapping } else { Start::Behind };
        let config = Config { start, ..config };
        let (grid, params) = (launch.grid.into(), bytemuck::bytes_of(params));
        // SAFETY: the regions name every buffer that the parameters point to, and the callers keep those until this returns; with checks an access
        // outside of them ends the launch before it is made.
        let outcome = unsafe { stream.launch(launch.image, grid, params, launch.maps(), regions, config) };
        let report = outcome.unwrap_or_else(|failure| panic!("{config:?}: {failure}"));
        total.blocks += report.blocks;
        total.matrix_products += report.matrix_products;
        total.bulk_copies += report.bulk_copies;
        total.matrix_loads += report.matrix_loads;
        total.bank_conflicts += report.bank_conflicts;
        total.global_bytes_read += report.global_bytes_read;
        total.global_bytes_written += report.global_bytes_written;
    }
    total
}

#[cfg(not(feature = "emu"))]
fn emulated<P: Pod>(_: &Launches, _: &P, _: &[Region], _: Config) -> Report {
    unreachable!("there is no emulator: a GPU is used")
}
