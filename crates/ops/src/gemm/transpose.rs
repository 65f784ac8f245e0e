//! Packing with AVX-512: 16 x 16 words are turned in registers.

use std::arch::x86_64::{
    __m512i, _mm256_maskz_loadu_epi16, _mm512_castsi512_si256, _mm512_cvtepu16_epi32,
    _mm512_extracti64x4_epi64, _mm512_maskz_loadu_epi16, _mm512_maskz_loadu_epi32, _mm512_or_si512,
    _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_slli_epi32, _mm512_store_si512, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use half::bf16;

use super::LANES;

/// How elements become words.
pub(super) trait Words {
    /// One element.
    type Element;
    /// Elements of a word.
    const PER_WORD: usize;

    /// The next 16 words of a row of which `left` elements remain; zeros behind them.
    ///
    /// # Safety
    /// - The machine has AVX-512 F, BW and VL.
    /// - `left` elements can be read from `source`.
    unsafe fn load(source: *const Self::Element, left: usize) -> __m512i;
}

/// `f32` as it is.
pub(super) struct Single;

impl Words for Single {
    type Element = f32;
    const PER_WORD: usize = 1;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(source: *const f32, left: usize) -> __m512i {
        // SAFETY: the mask leaves out what the caller does not promise.
        unsafe { _mm512_maskz_loadu_epi32(low(mask(left)), source.cast()) }
    }
}

/// `bf16` widened to `f32`.
pub(super) struct Widened;

impl Words for Widened {
    type Element = bf16;
    const PER_WORD: usize = 1;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(source: *const bf16, left: usize) -> __m512i {
        // SAFETY: the mask leaves out what the caller does not promise.
        let halves = unsafe { _mm256_maskz_loadu_epi16(low(mask(left)), source.cast()) };
        _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves))
    }
}

/// Two `bf16` to a word.
pub(super) struct Pair;

impl Words for Pair {
    type Element = bf16;
    const PER_WORD: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(source: *const bf16, left: usize) -> __m512i {
        // SAFETY: the mask leaves out what the caller does not promise.
        unsafe { _mm512_maskz_loadu_epi16(mask(left), source.cast()) }
    }
}

/// The lowest `count` bits, all from 32 on.
#[inline(always)]
const fn mask(count: usize) -> u32 {
    if count >= 32 { u32::MAX } else { (1 << count) - 1 }
}

/// The lowest 16 bits.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "on purpose")]
const fn low(bits: u32) -> u16 {
    bits as u16
}

/// As [`super::pack::pack_columns`].
///
/// # Safety
/// - The machine has AVX-512 F, BW and VL.
/// - `lanes` rows (at most [`LANES`]) of `length` elements, `stride` apart, can be read from `source`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn pack<W: Words>(
    source: *const W::Element,
    stride: usize,
    lanes: usize,
    length: usize,
    panel: &mut [u32],
) {
    let words = length.div_ceil(W::PER_WORD);
    for word in (0..words).step_by(16) {
        let done = word * W::PER_WORD;
        let height = (words - word).min(16);
        for half in 0..LANES / 16 {
            let mut block = [_mm512_setzero_si512(); 16];
            for (lane, row) in block.iter_mut().enumerate().take(lanes.saturating_sub(half * 16)) {
                let start = source.wrapping_add((half * 16 + lane) * stride + done);
                // SAFETY: `length - done` elements of this lane remain: the caller's promise.
                *row = unsafe { W::load(start, length - done) };
            }
            let turned = transpose(block);
            let target = &mut panel[word * LANES..(word + height) * LANES];
            for (line, row) in target.chunks_exact_mut(LANES).zip(turned) {
                // SAFETY: 16 words of the line from `half * 16` on, on a cache line as the panel is (`Scratch`, `carve`).
                unsafe { _mm512_store_si512(line[half * 16..half * 16 + 16].as_mut_ptr().cast(), row) };
            }
        }
    }
}

/// As [`super::pack::pack_rows`] for pairs of `bf16`.
///
/// # Safety
/// - The machine has AVX-512 F, BW and VL.
/// - `length` rows of `lanes` elements (at most [`LANES`]), `stride` apart, can be read from `source`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn interleave(
    source: *const bf16,
    stride: usize,
    lanes: usize,
    length: usize,
    panel: &mut [u32],
) {
    let words = length.div_ceil(2);
    for (word, line) in panel[..words * LANES].chunks_exact_mut(LANES).enumerate() {
        let first = source.wrapping_add(2 * word * stride);
        // SAFETY: row `2 word` has `lanes` elements: the caller's promise.
        let even = unsafe { Pair::load(first, lanes) };
        // SAFETY: so has the next one, if there is one; otherwise nothing is read.
        let odd =
            unsafe { Pair::load(first.wrapping_add(stride), if 2 * word + 1 < length { lanes } else { 0 }) };
        let left = zip(
            _mm512_cvtepu16_epi32(_mm512_castsi512_si256(even)),
            _mm512_cvtepu16_epi32(_mm512_castsi512_si256(odd)),
        );
        let right = zip(
            _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(even)),
            _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(odd)),
        );
        // SAFETY: the line has 32 words on a cache line.
        unsafe { _mm512_store_si512(line[..16].as_mut_ptr().cast(), left) };
        // SAFETY: as above.
        unsafe { _mm512_store_si512(line[16..].as_mut_ptr().cast(), right) };
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn zip(low: __m512i, high: __m512i) -> __m512i {
    _mm512_or_si512(low, _mm512_slli_epi32::<16>(high))
}

/// Row r, word c becomes row c, word r: pairs of words, pairs of pairs, then quarters of registers change places.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    let mut pairs = rows;
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // quads[4 g + j]: in its quarter q, word 4 q + j of rows 4 g to 4 g + 3.
    let mut quads = pairs;
    for g in 0..4 {
        quads[4 * g] = _mm512_unpacklo_epi64(pairs[4 * g], pairs[4 * g + 2]);
        quads[4 * g + 1] = _mm512_unpackhi_epi64(pairs[4 * g], pairs[4 * g + 2]);
        quads[4 * g + 2] = _mm512_unpacklo_epi64(pairs[4 * g + 1], pairs[4 * g + 3]);
        quads[4 * g + 3] = _mm512_unpackhi_epi64(pairs[4 * g + 1], pairs[4 * g + 3]);
    }
    let mut turned = quads;
    for j in 0..4 {
        // Quarters 0, 1 and 2, 3 of rows 0 to 7, and of rows 8 to 15.
        let upper_low = _mm512_shuffle_i32x4::<0b01_00_01_00>(quads[j], quads[4 + j]);
        let upper_high = _mm512_shuffle_i32x4::<0b11_10_11_10>(quads[j], quads[4 + j]);
        let lower_low = _mm512_shuffle_i32x4::<0b01_00_01_00>(quads[8 + j], quads[12 + j]);
        let lower_high = _mm512_shuffle_i32x4::<0b11_10_11_10>(quads[8 + j], quads[12 + j]);
        turned[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(upper_low, lower_low);
        turned[4 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(upper_low, lower_low);
        turned[8 + j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(upper_high, lower_high);
        turned[12 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(upper_high, lower_high);
    }
    turned
}
