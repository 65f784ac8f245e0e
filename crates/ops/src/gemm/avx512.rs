use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_castsi512_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps,
    _mm512_load_si512, _mm512_loadu_ps, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
};

use half::bf16;
use lighterage_shape::{DType, Float};

use super::transpose::{self, Pair, Single, Widened};
use super::{Job, LANES, ROW_STRIDE, ROWS, Simd, Tile, pack};

/// AVX-512 F, BW, DQ and VL; `bf16` is widened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512;

/// AVX-512 with the dot product of `bf16` pairs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512Bf16;

impl<E: Float> Simd<E> for Avx512 {
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
        if E::DTYPE == DType::Bf16 {
            // SAFETY: the caller's promise; `E` is `bf16`.
            unsafe { transpose::pack::<Widened>(source.cast(), stride, lanes, length, panel) }
        } else {
            // SAFETY: the caller's promise; the only other `Float` is `f32`.
            unsafe { transpose::pack::<Single>(source.cast(), stride, lanes, length, panel) }
        }
    }

    #[inline(always)]
    unsafe fn pack_rows(source: *const E, stride: usize, lanes: usize, length: usize, panel: &mut [u32]) {
        // SAFETY: the caller's promise.
        unsafe { pack::pack_rows::<E, Self>(source, stride, lanes, length, panel) }
    }

    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn enter<J: Job<E>>(job: &J, task: usize) {
        job.run::<Self>(task);
    }

    #[inline(always)]
    unsafe fn tile(rows: usize, tile: &Tile) {
        // SAFETY: the caller's promise.
        unsafe { choose::<Fma>(rows, tile) }
    }
}

impl Simd<bf16> for Avx512Bf16 {
    type Packed = bf16;

    const FMA: bool = true;

    #[inline(always)]
    fn pack(value: bf16) -> bf16 {
        value
    }

    #[inline(always)]
    fn pack_f32(value: f32) -> bf16 {
        super::elementary::round_bf16(value)
    }

    #[inline(always)]
    unsafe fn pack_columns(
        source: *const bf16,
        stride: usize,
        lanes: usize,
        length: usize,
        panel: &mut [u32],
    ) {
        // SAFETY: the caller's promise.
        unsafe { transpose::pack::<Pair>(source, stride, lanes, length, panel) }
    }

    #[inline(always)]
    unsafe fn pack_rows(source: *const bf16, stride: usize, lanes: usize, length: usize, panel: &mut [u32]) {
        // SAFETY: the caller's promise.
        unsafe { transpose::interleave(source, stride, lanes, length, panel) }
    }

    #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn enter<J: Job<bf16>>(job: &J, task: usize) {
        job.run::<Self>(task);
    }

    #[inline(always)]
    unsafe fn tile(rows: usize, tile: &Tile) {
        // SAFETY: the caller's promise.
        unsafe { choose::<Dot>(rows, tile) }
    }
}

/// One step of the inner loop.
trait Step {
    /// # Safety
    /// - As [`Simd::tile`] for `R` rows.
    unsafe fn multiply<const R: usize>(tile: &Tile);
}

struct Fma;

impl Step for Fma {
    #[target_feature(enable = "avx512f")]
    unsafe fn multiply<const R: usize>(tile: &Tile) {
        let step = |a: __m512i, b: __m512i, sum: __m512| {
            _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum)
        };
        // SAFETY: the caller's promise.
        unsafe { multiply_with::<R>(tile, step) }
    }
}

struct Dot;

impl Step for Dot {
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn multiply<const R: usize>(tile: &Tile) {
        // SAFETY: both types are 64 bytes without invalid values.
        let pairs = |words: __m512i| unsafe { std::mem::transmute::<__m512i, __m512bh>(words) };
        let step = |a: __m512i, b: __m512i, sum: __m512| _mm512_dpbf16_ps(sum, pairs(a), pairs(b));
        // SAFETY: the caller's promise.
        unsafe { multiply_with::<R>(tile, step) }
    }
}

/// # Safety
/// - As [`Simd::tile`].
#[inline(always)]
unsafe fn choose<S: Step>(rows: usize, tile: &Tile) {
    // SAFETY, all twelve: the caller's promise, with the height as a constant.
    macro_rules! heights {
        ($($height:literal)+) => {
            match rows {
                // SAFETY: the caller's promise, with the height as a constant.
                $($height => unsafe { S::multiply::<$height>(tile) },)+
                _ => unreachable!("a tile of {rows} rows, at most {ROWS}"),
            }
        };
    }
    heights!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// # Safety
/// - As [`Simd::tile`] for `R` rows.
#[inline(always)]
unsafe fn multiply_with<const R: usize>(tile: &Tile, step: impl Fn(__m512i, __m512i, __m512) -> __m512) {
    // SAFETY: whoever calls this has AVX-512 F.
    let zero = unsafe { _mm512_setzero_ps() };
    let mut sum = [[zero; 2]; R];
    let c = |row: usize, half: usize| tile.c.wrapping_add(row * tile.c_stride + half * 16);
    let (mut a, mut b) = (tile.a, tile.b);
    for _ in 0..tile.words {
        // SAFETY: `words * LANES` words of the panel, on a cache line: the caller's promise.
        let left = unsafe { _mm512_load_si512(b.cast()) };
        // SAFETY: as above.
        let right = unsafe { _mm512_load_si512(b.wrapping_add(16).cast()) };
        for (row, sums) in sum.iter_mut().enumerate() {
            // SAFETY: `words` words of each row of a, the caller's promise.
            let word = unsafe { *a.wrapping_add(row * ROW_STRIDE) };
            // SAFETY: whoever calls this has AVX-512 F.
            let word = unsafe { _mm512_set1_epi32(word.cast_signed()) };
            sums[0] = step(word, left, sums[0]);
            sums[1] = step(word, right, sums[1]);
        }
        a = a.wrapping_add(1);
        b = b.wrapping_add(LANES);
    }
    if tile.accumulate {
        for (row, sums) in sum.iter_mut().enumerate() {
            for (half, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `LANES` elements of each row of c, the caller's promise.
                let before = unsafe { _mm512_loadu_ps(c(row, half)) };
                // SAFETY: whoever calls this has AVX-512 F.
                *sum = unsafe { _mm512_add_ps(before, *sum) };
            }
        }
    }
    for (row, sums) in sum.iter().enumerate() {
        for (half, sum) in sums.iter().enumerate() {
            // SAFETY: `LANES` elements of each row of c, written by this tile alone: the caller's promise.
            unsafe { _mm512_storeu_ps(c(row, half), *sum) };
        }
    }
}
