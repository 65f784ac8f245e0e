//! How `linear_sm80.cu` and `linear_sm90a.cu` are launched: which tile, by a model of the time that knows sizes and architecture.

use crate::launch::{Arch, Grid, Launch, Launches, Target, TensorMap};
use crate::params::LinearParams;

/// What of a call the choice depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// Rows of x and out.
    pub rows: u32,
    /// Rows of weight, columns of out.
    pub columns: u32,
    /// The summed dimension.
    pub inner: u32,
    /// Whether x and weight can be read 16 bytes at a time.
    pub alignment: Alignment,
}

/// Whether addresses and strides of x and weight are multiples of 16 bytes, as cp.async and TMA want them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alignment {
    /// They are.
    Bytes16,
    /// They are not.
    Less,
}

/// One compiled variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Symbol in the image.
    pub image: &'static str,
    /// Rows and columns of one tile of out.
    pub tile: [u32; 2],
    /// Elements of the summed dimension in one stage.
    pub depth: u32,
    /// Stages of the ring.
    pub stages: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    unit: Unit,
}

/// What multiplies, which decides how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// mma.sync by four warps of `warp` rows and columns each.
    Warps { warp: [u32; 2] },
    /// mma.sync by four warps that share the summed dimension; a block has all rows.
    FewRows,
    /// wgmma by two warpgroups; one block a multiprocessor takes tile after tile.
    Groups,
}

/// Four warps, so many down and across.
pub(crate) const fn warps(image: &'static str, tile: [u32; 2], warps: [u32; 2], stages: u32) -> Config {
    let shared_bytes = stages * (tile[0] + tile[1]) * 64;
    let unit = Unit::Warps { warp: [tile[0] / warps[0], tile[1] / warps[1]] };
    Config { image, tile, depth: 32, stages, threads: 128, shared_bytes, unit }
}

/// Two warpgroups of 64 rows, with 16 KiB each for their finished rows, and two mbarriers a stage.
const fn groups(image: &'static str, columns: u32, stages: u32) -> Config {
    let shared_bytes = stages * ((128 + columns) * 128 + 16) + 2 * 16 * 1024;
    Config { image, tile: [128, columns], depth: 64, stages, threads: 384, shared_bytes, unit: Unit::Groups }
}

const fn few_rows(image: &'static str) -> Config {
    Config {
        image,
        tile: [16, 32],
        depth: 32,
        stages: 4,
        threads: 128,
        shared_bytes: 4 * 4 * (16 + 32) * 64,
        unit: Unit::FewRows,
    }
}

const SM80: [Config; 3] = [
    warps("linear_sm80_128x128_bf16", [128, 128], [2, 2], 3),
    warps("linear_sm80_64x128_bf16", [64, 128], [2, 2], 4),
    warps("linear_sm80_64x64_bf16", [64, 64], [2, 2], 4),
];
/// The tiles of `linear_sm90a.cu`, then those of `linear_sm80.cu`.
const SM90A: [Config; 5] = [
    groups("linear_sm90a_128x256_bf16", 256, 4),
    groups("linear_sm90a_128x128_bf16", 128, 6),
    SM80[0],
    SM80[1],
    SM80[2],
];
const SM80_UNALIGNED: Config = warps("linear_sm80_64x64_unaligned_bf16", [64, 64], [2, 2], 4);
const SUMS: [Config; 2] = [
    warps("linear_sums_sm80_128x128_bf16", [128, 128], [2, 2], 3),
    warps("linear_sums_sm80_64x64_bf16", [64, 64], [2, 2], 4),
];
const SUMS_UNALIGNED: Config = warps("linear_sums_sm80_64x64_unaligned_bf16", [64, 64], [2, 2], 4);
const FEW_ROWS: Config = few_rows("linear_sm80_rows16_bf16");
const FEW_ROWS_UNALIGNED: Config = few_rows("linear_sm80_rows16_unaligned_bf16");

/// Who multiplies a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// A kernel of this folder.
    Own(Config),
    /// cuBLASLt with this algorithm and workspace, where its library is present; else [`choose`]'s kernel.
    CublasLt {
        /// `CUBLASLT_ALGO_CONFIG_ID`.
        algorithm: u32,
        /// The workspace that it gets, on every call.
        workspace_bytes: u32,
    },
}

/// A line of a table: on this architecture this shape is multiplied so.
pub type Entry = (Arch, Shape, Plan);

/// The committed table. Empty until a GPU has shown where cuBLASLt is faster: everything runs on our own kernels.
pub const TABLE: &[Entry] = &[];

/// What the table says of a shape; what it does not name is ours.
///
/// ```
/// use lighterage_kernels::gemm::linear::{Alignment, Plan, Shape, TABLE, plan};
/// use lighterage_kernels::launch::{Arch, Target};
/// let shape = Shape { rows: 4112, columns: 9216, inner: 3072, alignment: Alignment::Bytes16 };
/// let Plan::Own(config) = plan(TABLE, shape, Target::typical(Arch::Sm80)) else { panic!("ours") };
/// assert_eq!(config.tile, [128, 128]);
/// ```
#[must_use]
pub fn plan(table: &[Entry], shape: Shape, target: Target) -> Plan {
    let named = table.iter().find(|(arch, named, _)| *arch == target.arch && *named == shape);
    named.map_or_else(|| Plan::Own(choose(shape, target)), |(_, _, plan)| *plan)
}

/// The variant that should be fastest by [`predicted_clocks`], among those that can run.
#[must_use]
pub fn choose(shape: Shape, target: Target) -> Config {
    match (shape.rows <= 16, shape.alignment) {
        (true, Alignment::Bytes16) => FEW_ROWS,
        (true, Alignment::Less) => FEW_ROWS_UNALIGNED,
        (false, Alignment::Less) => SM80_UNALIGNED,
        // A tensor map has no empty dimension.
        (false, Alignment::Bytes16) if shape.inner == 0 => SM80[0],
        (false, Alignment::Bytes16) => fastest(candidates(target.arch), shape, target),
    }
}

/// The first of those with the least predicted time; there is at least one.
pub(crate) fn fastest(configs: &[Config], shape: Shape, target: Target) -> Config {
    *configs.iter().min_by_key(|config| predicted_clocks(**config, shape, target)).unwrap_or(&configs[0])
}

/// The variant for sums that are stored as f32.
#[must_use]
pub fn choose_sums(shape: Shape, target: Target) -> Config {
    match shape.alignment {
        Alignment::Less => SUMS_UNALIGNED,
        Alignment::Bytes16 => fastest(&SUMS, shape, target),
    }
}

/// The variants for more than 16 rows in 16-byte pieces, the largest tile first: of two that should be equally fast it is taken.
#[must_use]
pub const fn candidates(arch: Arch) -> &'static [Config] {
    match arch {
        Arch::Sm90a => &SM90A,
        _ => &SM80,
    }
}

/// How many clocks the multiplication takes on the multiprocessor that has most to do.
///
/// A stage costs what the slowest of three needs: the tensor cores, ldmatrix at 128 bytes a clock, and L2. Tiles run in rounds of one a
/// multiprocessor, so one tile too many costs a whole round; that is what smaller tiles are for.
#[must_use]
pub fn predicted_clocks(config: Config, shape: Shape, target: Target) -> u64 {
    let [rows, columns] = config.tile.map(u64::from);
    let depth = u64::from(config.depth);
    let rounds = tiles(config, shape).div_ceil(u64::from(target.multiprocessors));
    let steps = u64::from(shape.inner).div_ceil(depth);
    let products = (2 * rows * columns * depth).div_ceil(flops_per_clock(config.unit, target.arch));
    let from_l2 = ((rows + columns) * depth * 2).div_ceil(l2_bytes_per_clock(target.arch));
    let operands = match config.unit {
        Unit::Warps { warp: [warp_rows, warp_columns] } => {
            let warps = config.tile[0] / warp_rows * (config.tile[1] / warp_columns);
            u64::from(warps * (warp_rows + warp_columns)) * depth * 2 / 128
        }
        Unit::FewRows => (rows + columns) * depth * 2 / 128,
        // wgmma reads its operands beside the products; each of two warpgroups reads its rows of x and all of weight.
        Unit::Groups => (rows + 2 * columns) * depth * 2 / 128,
    };
    // The tile leaves as bf16 after the last stage; other blocks of the multiprocessor go on meanwhile, but not on the last one.
    let store = rows * columns * 2 / l2_bytes_per_clock(target.arch);
    rounds * (steps * products.max(from_l2).max(operands) + store)
}

/// Tiles of out.
#[must_use]
pub fn tiles(config: Config, shape: Shape) -> u64 {
    u64::from(shape.rows.div_ceil(config.tile[0])) * u64::from(shape.columns.div_ceil(config.tile[1]))
}

/// bf16 with fp32 sums, of one multiprocessor (data sheets: peak / multiprocessors / boost clock). By mma.sync the tensor cores of `sm_90`
/// and `sm_100` reach about 60 and 25 % of their peak.
const fn flops_per_clock(unit: Unit, arch: Arch) -> u64 {
    match (unit, arch) {
        (Unit::Groups, _) => 4096,
        (_, Arch::Sm80 | Arch::Sm100a) => 2048,
        (_, Arch::Sm86 | Arch::Sm89 | Arch::Sm120a) => 512,
        (_, Arch::Sm90a) => 2560,
    }
}

/// What one multiprocessor gets from L2 while all of them read.
const fn l2_bytes_per_clock(arch: Arch) -> u64 {
    match arch {
        Arch::Sm86 | Arch::Sm89 | Arch::Sm120a => 24,
        Arch::Sm80 => 40,
        Arch::Sm90a | Arch::Sm100a => 48,
    }
}

/// The shape of a call.
#[must_use]
pub const fn shape(params: &LinearParams) -> Shape {
    let bits = params.x | params.weight | (params.x_stride | params.weight_stride) * 2;
    let alignment = if bits % 16 == 0 { Alignment::Bytes16 } else { Alignment::Less };
    Shape { rows: params.rows, columns: params.columns, inner: params.inner, alignment }
}

/// One launch of the variant that [`choose`] names.
#[must_use]
pub fn launches(params: &LinearParams, target: Target) -> Launches {
    let shape = shape(params);
    launches_of(choose(shape, target), params, target)
}

/// One launch of the variant that [`choose_sums`] names: `out` is f32.
#[must_use]
pub fn launches_sums(params: &LinearParams, target: Target) -> Launches {
    launches_of(choose_sums(shape(params), target), params, target)
}

/// One launch of a given variant.
#[must_use]
pub fn launches_of(config: Config, params: &LinearParams, target: Target) -> Launches {
    let tiles = u32::try_from(tiles(config, shape(params))).unwrap_or(u32::MAX);
    let grid =
        |blocks| Grid { blocks: [blocks, 1, 1], threads: config.threads, shared_bytes: config.shared_bytes };
    let launch = match config.unit {
        Unit::Warps { .. } | Unit::FewRows => Launch::new(config.image, grid(tiles)),
        Unit::Groups => Launch::new(config.image, grid(tiles.min(target.multiprocessors))).with_maps(&[
            map(params.x, params.x_stride, [params.inner, params.rows], config.tile[0]),
            map(params.weight, params.weight_stride, [params.inner, params.columns], config.tile[1]),
        ]),
    };
    Launches::of(&[launch])
}

/// Boxes of 64 columns, 128 bytes, and a tile's rows.
fn map(address: u64, stride: u64, [columns, rows]: [u32; 2], box_rows: u32) -> TensorMap {
    TensorMap {
        address,
        sizes: [u64::from(columns), u64::from(rows), 0, 0, 0],
        strides: [stride * 2, 0, 0, 0],
        box_sizes: [64, box_rows, 0, 0, 0],
        rank: 2,
        element_bytes: 2,
        swizzle_bytes: 128,
    }
}
