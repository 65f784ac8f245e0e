use std::arch::x86_64::{
    __m256, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps,
    _mm256_storeu_ps,
};

use lighterage_shape::Float;

use super::{Job, LANES, ROW_STRIDE, Simd, Tile, pack};

/// AVX2 and FMA; `bf16` is widened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2;

/// Registers across a panel.
const VECTORS: usize = LANES / 8;

/// Rows at once: 3 x 4 accumulators and a broadcast fit into 16 registers, the panel comes from memory.
const ROWS_AT_ONCE: usize = 3;

impl<E: Float> Simd<E> for Avx2 {
    type Packed = f32;

    const FMA: bool = true;

    #[inline(always)]
    fn pack(value: E) -> f32 {
        value.to_f32()
    }

    #[inline(always)]
    fn pack_f32(value: f32) -> f32 {
        value
    }

    #[inline(always)]
    unsafe fn pack_columns(source: *const E, stride: usize, lanes: usize, length: usize, panel: &mut [u32]) {
        // SAFETY: the caller's promise.
        unsafe { pack::pack_columns::<E, Self>(source, stride, lanes, length, panel) }
    }

    #[inline(always)]
    unsafe fn pack_rows(source: *const E, stride: usize, lanes: usize, length: usize, panel: &mut [u32]) {
        // SAFETY: the caller's promise.
        unsafe { pack::pack_rows::<E, Self>(source, stride, lanes, length, panel) }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn enter<J: Job<E>>(job: &J, task: usize) {
        job.run::<Self>(task);
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile(rows: usize, tile: &Tile) {
        for first in (0..rows).step_by(ROWS_AT_ONCE) {
            let part = Tile {
                a: tile.a.wrapping_add(first * ROW_STRIDE),
                c: tile.c.wrapping_add(first * tile.c_stride),
                ..*tile
            };
            match rows - first {
                // SAFETY: the caller's promise, for some of its rows.
                1 => unsafe { multiply::<1>(&part) },
                // SAFETY: as above.
                2 => unsafe { multiply::<2>(&part) },
                // SAFETY: as above.
                _ => unsafe { multiply::<ROWS_AT_ONCE>(&part) },
            }
        }
    }
}

/// # Safety
/// - As [`Simd::tile`] for `R` rows.
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply<const R: usize>(tile: &Tile) {
    let mut sum: [[__m256; VECTORS]; R] = [[_mm256_setzero_ps(); VECTORS]; R];
    let c = |row: usize, vector: usize| tile.c.wrapping_add(row * tile.c_stride + vector * 8);
    for word in 0..tile.words {
        let mut b = [_mm256_setzero_ps(); VECTORS];
        for (vector, b) in b.iter_mut().enumerate() {
            // SAFETY: `words * LANES` words of the panel, the caller's promise.
            *b = unsafe { _mm256_loadu_ps(tile.b.wrapping_add(word * LANES + vector * 8).cast()) };
        }
        for (row, sums) in sum.iter_mut().enumerate() {
            // SAFETY: `words` words of each row of a, the caller's promise; the reference lives for this statement.
            let a = _mm256_broadcast_ss(unsafe { &*tile.a.wrapping_add(row * ROW_STRIDE + word).cast() });
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = _mm256_fmadd_ps(a, b, *sum);
            }
        }
    }
    if tile.accumulate {
        for (row, sums) in sum.iter_mut().enumerate() {
            for (vector, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `LANES` elements of each row of c, the caller's promise.
                *sum = _mm256_add_ps(unsafe { _mm256_loadu_ps(c(row, vector)) }, *sum);
            }
        }
    }
    for (row, sums) in sum.iter().enumerate() {
        for (vector, sum) in sums.iter().enumerate() {
            // SAFETY: `LANES` elements of each row of c, written by this tile alone: the caller's promise.
            unsafe { _mm256_storeu_ps(c(row, vector), *sum) };
        }
    }
}
