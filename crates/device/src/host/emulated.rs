//! The kernels' CUDA sources on the emulator, in place of the host functions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::memory::Memory;
use super::work::{Run, Work};
use crate::{Error, Kernel, Result, Target, Workers};
use bytemuck::bytes_of;

/// How a [`Host`](super::Host) emulates a GPU: see [`HostConfig::emulate`](super::HostConfig::emulate).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emulation {
    /// The GPU whose launches are run: grids, images and tensor maps are the ones that it would get.
    pub target: Target,
    /// Whether every access is checked for races, bounds, use before writing and, in launches that overlap, for what comes before the wait, which takes several times as long. Then blocks run one after
    /// another, asynchronous work is done as late as allowed, and fresh memory holds NaN; else blocks are spread over the threads.
    pub checks: bool,
}

/// One stream as the emulator sees it: which launches may still run when the next one begins.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Whether something other than a launch was queued since the last one (a copy, a fill, a recorded graph), or a graph is begun: the next launch begins when all before it is over.
    is_over: AtomicBool,
    #[cfg(feature = "emu")]
    stream: std::sync::Mutex<lighterage_kernels::emu::Stream>,
}

impl Order {
    /// The next launch begins when all before it is over.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// Notes what is queued. Events order streams among each other, and end nothing on their own.
    pub(super) fn see(&self, work: &Work) {
        if matches!(work, Work::Copy(_) | Work::Fill { .. }) {
            self.end();
        }
    }
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
        order: &Arc<Order>,
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
        let (emulation, params, order) = (*self, *params, Arc::clone(order));
        let is_over = order.is_over.swap(false, Ordering::Relaxed);
        Ok(Arc::new(move |workers: &Workers| {
            let call = Call { launches: &launches, params: bytes_of(&params), is_over };
            // SAFETY: the promise of who made the work.
            unsafe { emulation.perform(&call, &order, &regions, workers) }
        }))
    }

    #[cfg(not(feature = "emu"))]
    #[expect(clippy::unused_self, reason = "as with the feature")]
    unsafe fn perform(&self, _: &Call<'_>, _: &Order, _: &[(u64, u64)], _: &Workers) -> super::Outcome {
        Err("this build has no emulator".to_owned())
    }
}

/// One call of an op.
#[cfg_attr(not(feature = "emu"), expect(dead_code, reason = "without the emulator nothing runs it"))]
struct Call<'a> {
    launches: &'a crate::Launches,
    params: &'a [u8],
    /// Whether all before it in its stream is over when it begins.
    is_over: bool,
}

#[cfg(feature = "emu")]
mod machine {
    use std::sync::{Mutex, PoisonError};

    use lighterage_kernels::emu::{self, Config, Failure, Mode, Region, Start, Stream};
    use lighterage_kernels::launch::Launch;

    use super::{Call, Emulation, Order};
    use crate::Workers;
    use crate::host::Outcome;

    /// Pieces of one grid: enough for any number of threads, few beside the cost of starting one.
    const PARTS_MAX: u64 = 64;

    impl Emulation {
        /// # Safety
        /// - As [`Emulation::run`].
        pub(super) unsafe fn perform(
            &self,
            call: &Call<'_>,
            order: &Order,
            ranges: &[(u64, u64)],
            workers: &Workers,
        ) -> Outcome {
            let regions: Vec<Region> =
                ranges.iter().map(|(address, bytes)| Region { address: *address, bytes: *bytes }).collect();
            let mut stream = order.stream.lock().unwrap_or_else(PoisonError::into_inner);
            if call.is_over {
                stream.finish();
            }
            call.launches.as_slice().iter().try_for_each(|launch| {
                let outcome = if self.checks {
                    // SAFETY: the caller's promise.
                    unsafe { self.launch_checked(launch, call.params, &regions, &mut stream) }
                } else {
                    // SAFETY: as above.
                    unsafe { self.launch_spread(launch, call.params, workers) }
                };
                outcome.map_err(|failure| failure.to_string())
            })
        }

        /// Runs one grid as the next launch of its stream, every access checked.
        ///
        /// # Safety
        /// - As [`Emulation::run`].
        unsafe fn launch_checked(
            &self,
            launch: &Launch,
            params: &[u8],
            regions: &[Region],
            stream: &mut Stream,
        ) -> Result<(), Failure> {
            let start = if launch.overlaps { Start::Overlapping } else { Start::Behind };
            let (grid, config) = (emu::Grid::from(launch.grid), Config { start, ..self.config() });
            // SAFETY: the caller's promise: the addresses are mapped as far as the kernel reaches and nothing else touches them; where the
            // regions say otherwise, the launch ends before the access.
            unsafe { stream.launch(launch.image, grid, params, launch.maps(), regions, config) }.map(|_| ())
        }

        /// Runs one grid on all threads, unchecked. Blocks write what no other block touches, so how they are spread changes no bit.
        ///
        /// # Safety
        /// - As [`Emulation::run`].
        unsafe fn launch_spread(
            &self,
            launch: &Launch,
            params: &[u8],
            workers: &Workers,
        ) -> Result<(), Failure> {
            let grid = emu::Grid::from(launch.grid);
            let blocks = grid.count();
            let parts = blocks.min(PARTS_MAX);
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
                        &[],
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
            first.map_or(Ok(()), |(_, failure)| Err(failure))
        }

        fn config(&self) -> Config {
            Config {
                mode: if self.checks { Mode::Late } else { Mode::Eager },
                seed: 0,
                checks: self.checks,
                start: Start::Behind,
                shared_bytes_max: self.target.arch.shared_bytes_max(),
            }
        }
    }
}
