use bytemuck::Pod;

use crate::Workers;

/// How many blocks of how many threads run a kernel, and how much dynamic shared memory each block has.
/// `Host` ignores it: its kernels divide their work over [`Workers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks in x, y, z.
    pub blocks: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

impl Grid {
    /// One thread for each of `count` elements, 256 threads a block.
    #[must_use]
    pub fn elements(count: u64) -> Self {
        Self {
            blocks: [u32::try_from(count.div_ceil(256).max(1)).unwrap_or(u32::MAX), 1, 1],
            threads: 256,
            shared_bytes: 0,
        }
    }

    /// One warp for each of `count` rows, 4 warps a block.
    #[must_use]
    pub fn warps(count: u32) -> Self {
        Self { blocks: [count.div_ceil(4).max(1), 1, 1], threads: 128, shared_bytes: 0 }
    }

    /// One block of 128 threads for each tile of a `rows` x `columns` matrix.
    #[must_use]
    pub fn tiles(rows: u32, columns: u32, tile_rows: u32, tile_columns: u32) -> Self {
        Self {
            blocks: [columns.div_ceil(tile_columns).max(1), rows.div_ceil(tile_rows).max(1), 1],
            threads: 128,
            shared_bytes: 0,
        }
    }
}

/// What one launch costs, for the simulator, the planner and the roofline of a benchmark.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations, a multiply-add counted as two.
    pub flops: f64,
    /// Bytes read and written once each.
    pub bytes: f64,
}

/// One kernel: its name, its parameters, what it does on the host and what it costs.
///
/// `ops` implements it on marker types; a backend finds the kernel's image by `NAME` (`Cuda`), runs `host` (`Host`) or
/// charges `cost` (`Sim`).
pub trait Kernel: 'static {
    /// The parameter struct, by value: the very bytes that the device gets.
    type Params: Pod + Send + Sync;

    /// The symbol in the image, for instance `rms_norm_bf16`.
    const NAME: &'static str;

    /// Does the kernel's work on the host. The result does not depend on the number of workers.
    ///
    /// # Safety
    /// - As [`Backend::launch`](crate::Backend::launch): addresses are pointers of this process, valid as far as the kernel reaches, and nothing else
    ///   touches what it writes or writes what it reads until it returns.
    unsafe fn host(params: &Self::Params, workers: &Workers);

    /// FLOPs and bytes of one launch.
    fn cost(params: &Self::Params) -> Cost;
}
