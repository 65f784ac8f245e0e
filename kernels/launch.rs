//! How a kernel is launched: what of a GPU the choice may depend on, and what is launched there.
//!
//! Beside each `.cu` lies a Rust file of the same name with one pure function, `launches(params, target)`: the images, grids and tensor
//! maps of one call, in order. It may look at sizes, strides and the [`Target`] and at nothing else, so that the same call always does the
//! same work in the same order. `device`'s `Cuda` backend and the emulator launch exactly what it says.

use std::fmt;

use crate::gemm::table::{Algorithm, Table};

/// An architecture that images are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arch {
    /// A100.
    Sm80,
    /// RTX 30, A40, A10.
    Sm86,
    /// RTX 40, L40S.
    Sm89,
    /// H100, H200, with wgmma, TMA and setmaxnreg.
    Sm90a,
    /// B200.
    Sm100a,
    /// RTX 50, RTX PRO 6000.
    Sm120a,
}

impl Arch {
    /// All, the oldest first.
    pub const ALL: [Self; 6] = [Self::Sm80, Self::Sm86, Self::Sm89, Self::Sm90a, Self::Sm100a, Self::Sm120a];

    /// The architecture whose images a device of this compute capability runs. Those of 8.6 are promised to run on 8.9, which has its own, and not on 8.7, which is a Tegra: "binary
    /// compatibility between desktop and Tegra is not supported" (CUDA C++ Programming Guide, "Binary Compatibility"). Images with an `a` run on one capability alone.
    ///
    /// ```
    /// use lighterage_kernels::launch::Arch;
    /// assert_eq!(Arch::of(9, 0), Some(Arch::Sm90a));
    /// assert_eq!(Arch::of(7, 5), None);
    /// assert_eq!(Arch::of(12, 1), None);
    /// ```
    #[must_use]
    pub const fn of(major: u32, minor: u32) -> Option<Self> {
        match (major, minor) {
            (8, 0) => Some(Self::Sm80),
            (8, 6) => Some(Self::Sm86),
            (8, 9) => Some(Self::Sm89),
            (9, 0) => Some(Self::Sm90a),
            (10, 0) => Some(Self::Sm100a),
            (12, 0) => Some(Self::Sm120a),
            _ => None,
        }
    }

    /// As nvcc writes it, without `sm_`: `80`, `90a`.
    #[must_use]
    pub const fn number(self) -> &'static str {
        match self {
            Self::Sm80 => "80",
            Self::Sm86 => "86",
            Self::Sm89 => "89",
            Self::Sm90a => "90a",
            Self::Sm100a => "100a",
            Self::Sm120a => "120a",
        }
    }

    /// Shared memory that one block may have, in bytes (CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability").
    #[must_use]
    pub const fn shared_bytes_max(self) -> u32 {
        match self {
            Self::Sm80 => 163 * 1024,
            Self::Sm86 | Self::Sm89 | Self::Sm120a => 99 * 1024,
            Self::Sm90a | Self::Sm100a => 227 * 1024,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}", self.number())
    }
}

/// What of a GPU a launch may depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its architecture.
    pub arch: Arch,
    /// Its streaming multiprocessors: how many blocks a persistent kernel has.
    pub multiprocessors: u32,
    /// Who multiplies what, where the model of the time does not decide.
    pub table: Table,
}

/// What of it decides bits, but for the table.
///
/// ```
/// use lighterage_kernels::launch::{Arch, Target};
/// assert_eq!(Target::typical(Arch::Sm90a).to_string(), "sm_90a, 132 multiprocessors");
/// ```
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} multiprocessors", self.arch, self.multiprocessors)
    }
}

impl Target {
    /// A typical card of that architecture: A100 SXM, RTX 3090, RTX 4090, H100 SXM, B200, RTX 5090; without a table.
    ///
    /// ```
    /// use lighterage_kernels::launch::{Arch, Target};
    /// assert_eq!(Target::typical(Arch::Sm90a).multiprocessors, 132);
    /// ```
    #[must_use]
    pub const fn typical(arch: Arch) -> Self {
        let multiprocessors = match arch {
            Arch::Sm80 => 108,
            Arch::Sm86 => 82,
            Arch::Sm89 => 128,
            Arch::Sm90a => 132,
            Arch::Sm100a => 148,
            Arch::Sm120a => 170,
        };
        Self { arch, multiprocessors, table: Table::EMPTY }
    }
}

/// How many blocks of how many threads, and how much dynamic shared memory each block has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks in x, y, z.
    pub blocks: [u32; 3],
    /// Threads of a block, in one dimension; 1024 at most.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

impl Grid {
    /// Blocks in one dimension, without dynamic shared memory.
    #[must_use]
    pub const fn line(blocks: u32, threads: u32) -> Self {
        Self { blocks: [blocks, 1, 1], threads, shared_bytes: 0 }
    }
}

/// A tensor map as plain data, as `cuTensorMapEncodeTiled` is told it; dimensions from the innermost.
/// What lies outside of the tensor reads as zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TensorMap {
    /// Address of element 0, a multiple of 16.
    pub address: u64,
    /// Elements in each dimension.
    pub sizes: [u64; 5],
    /// Bytes between neighbours of dimensions 1 to 4, multiples of 16.
    pub strides: [u64; 4],
    /// Elements of one copy in each dimension, 256 at most.
    pub box_sizes: [u32; 5],
    /// Number of dimensions, 1 to 5.
    pub rank: u32,
    /// Bytes of one element: 2 (bf16) or 4 (f32).
    pub element_bytes: u32,
    /// 0, 32, 64 or 128.
    pub swizzle_bytes: u32,
}

/// Tensor maps that one launch can have.
pub const MAPS_MAX: usize = 4;

/// Launches that one call can consist of.
pub const LAUNCHES_MAX: usize = 3;

/// One launch. The kernel gets the call's parameter struct by value and, if there are any, its tensor maps as second parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Symbol of the kernel in the image: `rms_norm_bf16`.
    pub image: &'static str,
    /// Its grid.
    pub grid: Grid,
    /// Whether it may begin while the launch before it in its stream ends.
    pub overlaps: bool,
    maps: [TensorMap; MAPS_MAX],
    maps_count: usize,
}

impl Launch {
    /// A launch without tensor maps.
    #[must_use]
    pub const fn new(image: &'static str, grid: Grid) -> Self {
        let maps = [TensorMap {
            address: 0,
            sizes: [0; 5],
            strides: [0; 4],
            box_sizes: [0; 5],
            rank: 0,
            element_bytes: 0,
            swizzle_bytes: 0,
        }; MAPS_MAX];
        Self { image, grid, overlaps: false, maps, maps_count: 0 }
    }

    /// The launch, begun while the one before it in its stream ends, where the architecture can (programmatic dependent launch, `sm_90` and newer): its blocks take
    /// their places as that one's leave them. Only for kernels that begin with `wait_for_launch_before` (`base/ptx.cuh`): nothing else keeps them from reading
    /// what is not written yet.
    ///
    /// ```
    /// use lighterage_kernels::launch::{Arch, Grid, Launch, Target};
    /// let launch = Launch::new("norm_mod_3072_bf16", Grid::line(4608, 128));
    /// assert!(launch.overlapping(Target::typical(Arch::Sm90a)).overlaps);
    /// assert!(!launch.overlapping(Target::typical(Arch::Sm89)).overlaps);
    /// ```
    #[must_use]
    pub const fn overlapping(mut self, target: Target) -> Self {
        self.overlaps = matches!(target.arch, Arch::Sm90a | Arch::Sm100a | Arch::Sm120a);
        self
    }

    /// The launch with these tensor maps.
    ///
    /// # Panics
    /// With more than [`MAPS_MAX`].
    #[must_use]
    pub fn with_maps(mut self, maps: &[TensorMap]) -> Self {
        assert!(maps.len() <= MAPS_MAX, "{}: {} tensor maps, {MAPS_MAX} at most", self.image, maps.len());
        self.maps[..maps.len()].copy_from_slice(maps);
        self.maps_count = maps.len();
        self
    }

    /// Its tensor maps, in the order that the kernel documents.
    #[must_use]
    pub fn maps(&self) -> &[TensorMap] {
        &self.maps[..self.maps_count]
    }
}

/// Addresses and strides in bytes of a [`Product`]'s operands, bias and output are multiples of this.
pub const PRODUCT_ALIGNMENT: u32 = 16;

/// One product by cuBLASLt: `out = x weight^T + bias`, bf16 with f32 sums, rounded once. Rows are dense, strides count elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// `[rows, inner]`
    pub x: u64,
    /// `[columns, inner]`
    pub weight: u64,
    /// `[columns]`, or 0
    pub bias: u64,
    /// `[rows, columns]`
    pub out: u64,
    /// Between rows of x.
    pub x_stride: u64,
    /// Between rows of weight.
    pub weight_stride: u64,
    /// Between rows of out.
    pub out_stride: u64,
    /// Rows of x and out.
    pub rows: u32,
    /// Rows of weight, columns of out.
    pub columns: u32,
    /// The summed dimension.
    pub inner: u32,
    /// How.
    pub algorithm: Algorithm,
}

/// The launches of one call, in order on one stream, or one product of a library instead; none: there is no image for it.
///
/// ```
/// use lighterage_kernels::launch::{Grid, Launch, Launches};
/// let launches = Launches::of(&[Launch::new("rms_norm_bf16", Grid::line(7, 128))]);
/// assert_eq!(launches.as_slice()[0].grid.threads, 128);
/// assert!(Launches::NONE.as_slice().is_empty());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launches {
    list: [Launch; LAUNCHES_MAX],
    count: usize,
    product: Option<Product>,
}

impl Launches {
    /// There is no image.
    pub const NONE: Self =
        Self { list: [Launch::new("", Grid::line(0, 0)); LAUNCHES_MAX], count: 0, product: None };

    /// These.
    ///
    /// # Panics
    /// With more than [`LAUNCHES_MAX`].
    #[must_use]
    pub fn of(launches: &[Launch]) -> Self {
        assert!(launches.len() <= LAUNCHES_MAX, "{} launches, {LAUNCHES_MAX} at most", launches.len());
        let mut all = Self { count: launches.len(), ..Self::NONE };
        all.list[..launches.len()].copy_from_slice(launches);
        all
    }

    /// A library's product.
    #[must_use]
    pub const fn of_product(product: Product) -> Self {
        Self { product: Some(product), ..Self::NONE }
    }

    /// The product that a library makes instead of a kernel.
    #[must_use]
    pub const fn product(&self) -> Option<&Product> {
        self.product.as_ref()
    }

    /// The kernels, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Launch] {
        &self.list[..self.count]
    }
}
