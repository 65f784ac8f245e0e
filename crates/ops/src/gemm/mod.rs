//! The matrix product that `linear`, `attention` and `conv2d` share on the host.
//!
//! Everything is made of one small step, the *tile*: up to [`ROWS`] rows of A times one *panel* of B, [`LANES`] columns wide,
//! over at most [`WORDS`] steps of the summed dimension. A word is what one step consumes of a row: an `f32`, or two
//! neighbouring `bf16` where the machine multiplies them in pairs ([`Simd::Packed`]). Rows of A lie [`ROW_STRIDE`] words
//! apart, a constant, so that the inner loop addresses all of them from one register; a panel is `[words][LANES]`.
//! A panel of 128 words is 16 KiB: it stays in the first-level cache while all rows of a block pass by.
//!
//! The sum over the inner dimension runs in one order, block of `WORDS` after block, whatever the number of rows in a tile or
//! of threads: an element depends on the sizes and on the instruction set alone. Each block is summed by itself before it is
//! added, so that errors grow with the length of a block and with their number, not with the product of the two.

mod blocks;
mod dispatch;
mod elementary;
mod epilogue;
#[cfg(test)]
mod guarded;
mod pack;
mod portable;
mod scratch;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod transpose;

pub(crate) use blocks::{Product, RowSource, multiply};
pub(crate) use dispatch::{HostElement, Job, execute};
pub(crate) use elementary::exp;
pub(crate) use epilogue::{Epilogue, store_rounded};
#[cfg(test)]
pub(crate) use guarded::{Guarded, bf16_rounding};
pub(crate) use pack::pack_row;
pub(crate) use scratch::{Scratch, carve};

use bytemuck::Pod;
use lighterage_shape::Float;

/// Columns of a panel: two 512-bit registers.
pub(crate) const LANES: usize = 32;

/// Rows of a tile at most: 12 x 2 accumulators, 2 registers of the panel and a broadcast fit into 32 registers.
pub(crate) const ROWS: usize = 12;

/// Steps of the inner dimension in one panel at most: 128 x 32 x 4 bytes are half of a 32 KiB first-level cache, and a tile's rows
/// of A a fifth.
pub(crate) const WORDS: usize = 128;

/// Words from one row of A to the next: 9 cache lines, an odd number, so that the rows of a tile fall into different sets.
pub(crate) const ROW_STRIDE: usize = WORDS + 16;

/// One call of the micro-kernel: `c[r][l] (+)= sum_w a[r][w] . b[w][l]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile {
    /// `[rows][words]`, rows `ROW_STRIDE` apart.
    pub(crate) a: *const u32,
    /// `[words][LANES]`, on a cache line.
    pub(crate) b: *const u32,
    /// Steps.
    pub(crate) words: usize,
    /// `[rows][LANES]`, rows `c_stride` apart.
    pub(crate) c: *mut f32,
    /// Elements.
    pub(crate) c_stride: usize,
    /// Add to what `c` holds, instead of replacing it.
    pub(crate) accumulate: bool,
}

/// One way to run: a set of instructions, for one element type.
pub(crate) trait Simd<E: Float>: Sized {
    /// How an element lies in rows and panels: as it is (two to a word) or widened to `f32`.
    type Packed: Pod + Send + Sync;

    /// Whether `a * b + c` is one instruction.
    const FMA: bool;

    /// Elements of one word.
    const PER_WORD: usize = 4 / size_of::<Self::Packed>();

    /// One element as it lies in a row.
    fn pack(value: E) -> Self::Packed;

    /// A computed value as it lies in a row; rounds to nearest where that is `bf16`.
    fn pack_f32(value: f32) -> Self::Packed;

    /// Packs the rows of a weight as columns: see [`pack::pack_columns`].
    ///
    /// # Safety
    /// - The machine has the instructions of the path.
    /// - `lanes` rows of `length` elements, `stride` apart, can be read from `source`.
    unsafe fn pack_columns(source: *const E, stride: usize, lanes: usize, length: usize, panel: &mut [u32]);

    /// Packs rows as they are: see [`pack::pack_rows`].
    ///
    /// # Safety
    /// - The machine has the instructions of the path.
    /// - `length` rows of `lanes` elements, `stride` apart, can be read from `source`.
    unsafe fn pack_rows(source: *const E, stride: usize, lanes: usize, length: usize, panel: &mut [u32]);

    /// Runs a job with the path's instructions enabled.
    ///
    /// # Safety
    /// - The machine has them.
    unsafe fn enter<J: Job<E>>(job: &J, task: usize);

    /// The micro-kernel.
    ///
    /// # Safety
    /// - The machine has the instructions of the path.
    /// - `rows` is 1 to [`ROWS`], and the tile's ranges can be read and written.
    unsafe fn tile(rows: usize, tile: &Tile);
}

/// First row and height of every tile of `rows` rows: as few tiles as do, of nearly equal height.
#[inline(always)]
pub(crate) fn tiles(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let tiles = rows.div_ceil(ROWS);
    (0..tiles).map(move |tile| {
        let (height, taller) = (rows / tiles, rows % tiles);
        (tile * height + tile.min(taller), height + usize::from(tile < taller))
    })
}

/// Asks for a cache line; nothing happens where there is no memory.
#[inline(always)]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and a prefetch reads nothing: it cannot fault.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
