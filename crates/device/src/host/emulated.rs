//! The kernels' CUDA sources on the emulator, in place of the host functions.

use std::sync::Arc;

use super::memory::Memory;
use super::work::Run;
use crate::{Error, Kernel, Result, Target, Workers};
use bytemuck::bytes_of;

/// How a [`Host`](super::Host) emulates a GPU: see [`HostConfig::emulate`](super::HostConfig::emulate).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emulation {
    /// The GPU whose launches are run: grids, images and tensor maps are the ones that it would get.
    pub target: Target,
    /// Whether every access is checked for races, bounds and use before writing, which takes several times as long. Then blocks run one after
    /// another, asynchronous work is done as late as allowed, and fresh memory holds NaN; else blocks are spread over the threads.
    pub checks: bool,
}

impl Emulation {
    /// Refuses where the emulator is not compiled in.
    pub(super) fn check(&self) -> Result<()> {
        if cfg!(feature = "emu") {
            return Ok(());
        }
        let reason = "this build has no emulator: it takes the feature emu, and g++ 12 or newer".to_owned();
        Err(Error::NoDevice { backend: "emu", reason })
    }

    pub(super) fn name(&self) -> String {
        format!("emulated {}{}", self.target.arch, if self.checks { ", checked" } else { "" })
    }

    /// The work of one call: every launch that a GPU would get for it, in order.
    ///
    /// # Safety
    /// - [`Backend::launch`](crate::Backend::launch)'s conditions hold until the work is done.
    pub(super) unsafe fn run<K: Kernel>(
        &self,
        params: &K::Params,
        memory: &Memory,
        device: &str,
    ) -> Result<Run> {
        // What a table gives to a library that only a GPU has is ours here.
        let target = Target { table: self.target.table.without_library(), ..self.target };
        let launches = K::launches(params, target);
        if launches.as_slice().is_empty() {
            return Err(Error::NoImage { kernel: K::NAME, device: device.to_owned() });
        }
        // Bounds are those of the moment: what the kernel may touch is mapped until it is done.
        let regions = if self.checks { memory.accessible_ranges() } else { Vec::new() };
        let (emulation, params) = (*self, *params);
        Ok(Arc::new(move |workers: &Workers| {
            // SAFETY: the promise of who made the work.
            unsafe { emulation.perform(&launches, bytes_of(&params), &regions, workers) }
        }))
    }

    #[cfg(not(feature = "emu"))]
    #[expect(clippy::unused_self, reason = "as with the feature")]
    unsafe fn perform(&self, _: &crate::Launches, _: &[u8], _: &[(u64, u64)], _: &Workers) -> super::Outcome {
        Err("this build has no emulator".to_owned())
    }
}

#[cfg(feature = "emu")]
mod machine {
    use std::sync::{Mutex, PoisonError};

    use lighterage_kernels::emu::{self, Config, Mode, Region};
    use lighterage_kernels::launch::{Launch, Launches};

    use super::Emulation;
    use crate::Workers;
    use crate::host::Outcome;

    /// Pieces of one grid: enough for any number of threads, few beside the cost of starting one.
    const PARTS_MAX: u64 = 64;

    impl Emulation {
        /// # Safety
        /// - As [`Emulation::run`].
        pub(super) unsafe fn perform(
            &self,
            launches: &Launches,
            params: &[u8],
            ranges: &[(u64, u64)],
            workers: &Workers,
        ) -> Outcome {
            let regions: Vec<Region> =
                ranges.iter().map(|(address, bytes)| Region { address: *address, bytes: *bytes }).collect();
            launches.as_slice().iter().try_for_each(|launch| {
                // SAFETY: the caller's promise.
                unsafe { self.launch(launch, params, &regions, workers) }
            })
        }

        /// Runs one grid. Blocks write what no other block touches, so how they are spread changes no bit.
        ///
        /// # Safety
        /// - As [`Emulation::run`].
        unsafe fn launch(
            &self,
            launch: &Launch,
            params: &[u8],
            regions: &[Region],
            workers: &Workers,
        ) -> Outcome {
            let grid = emu::Grid::from(launch.grid);
            let blocks = grid.count();
            let parts = if self.checks { 1 } else { blocks.min(PARTS_MAX) };
            let cluster = emu::cluster_blocks(launch.image).map_or(1, u64::from);
            let step = blocks.div_ceil(parts.max(1)).next_multiple_of(cluster);
            let first_failure = Mutex::new(None);
            workers.for_each(usize::try_from(parts).unwrap_or(1), |part| {
                let start = part as u64 * step;
                let part_blocks = start.min(blocks)..(start + step).min(blocks);
                // SAFETY: the caller's promise: the addresses are mapped as far as the kernel reaches and nothing else touches them; the
                // other parts are blocks of the same grid.
                let outcome = unsafe {
                    emu::launch_blocks(
                        launch.image,
                        grid,
                        part_blocks,
                        params,
                        launch.maps(),
                        regions,
                        self.config(),
                    )
                };
                if let Err(failure) = outcome {
                    let mut first = first_failure.lock().unwrap_or_else(PoisonError::into_inner);
                    if first.as_ref().is_none_or(|(earlier, _)| part < *earlier) {
                        *first = Some((part, failure));
                    }
                }
            });
            let first = first_failure.into_inner().unwrap_or_else(PoisonError::into_inner);
            first.map_or(Ok(()), |(_, failure)| Err(failure.to_string()))
        }

        fn config(&self) -> Config {
            Config {
                mode: if self.checks { Mode::Late } else { Mode::Eager },
                seed: 0,
                checks: self.checks,
                shared_bytes_max: self.target.arch.shared_bytes_max(),
            }
        }
    }
}
