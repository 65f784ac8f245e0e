use lighterage_shape::Float;

use super::{LANES, Simd};

/// Copies elements into one row of A; what is left of the last word becomes zero.
#[inline(always)]
pub(crate) fn pack_row<E: Float, S: Simd<E>>(source: &[E], row: &mut [u32]) {
    let row: &mut [S::Packed] = bytemuck::cast_slice_mut(row);
    for (packed, value) in row.iter_mut().zip(source) {
        *packed = S::pack(*value);
    }
    for packed in &mut row[source.len()..source.len().next_multiple_of(S::PER_WORD)] {
        *packed = bytemuck::Zeroable::zeroed();
    }
}

/// Packs a panel whose columns are rows of the source, as in a weight `[columns, inner]`: `panel[k][lane] = source[lane][k]`.
/// Missing lanes, and the second half of the last word where `length` is odd, become zero.
///
/// # Safety
/// - `lanes` rows (at most [`LANES`]) of `length` elements, `stride` apart, can be read from `source`.
#[inline(always)]
pub(crate) unsafe fn pack_columns<E: Float, S: Simd<E>>(
    source: *const E,
    stride: usize,
    lanes: usize,
    length: usize,
    panel: &mut [u32],
) {
    let panel: &mut [S::Packed] = bytemuck::cast_slice_mut(panel);
    let words = length.div_ceil(S::PER_WORD);
    panel[..words * LANES * S::PER_WORD].fill(bytemuck::Zeroable::zeroed());
    for lane in 0..lanes {
        // SAFETY: the caller's promise.
        let row = unsafe { std::slice::from_raw_parts(source.wrapping_add(lane * stride), length) };
        for (k, value) in row.iter().enumerate() {
            panel[(k / S::PER_WORD * LANES + lane) * S::PER_WORD + k % S::PER_WORD] = S::pack(*value);
        }
    }
}

/// Packs a panel whose steps are rows of the source, as in the values of attention `[keys, head_dim]`:
/// `panel[k][lane] = source[k][lane]`. Missing lanes and the second half of an odd last word become zero.
///
/// # Safety
/// - `length` rows of `lanes` elements (at most [`LANES`]), `stride` apart, can be read from `source`.
#[inline(always)]
pub(crate) unsafe fn pack_rows<E: Float, S: Simd<E>>(
    source: *const E,
    stride: usize,
    lanes: usize,
    length: usize,
    panel: &mut [u32],
) {
    let panel: &mut [S::Packed] = bytemuck::cast_slice_mut(panel);
    let words = length.div_ceil(S::PER_WORD);
    let panel = &mut panel[..words * LANES * S::PER_WORD];
    if lanes < LANES || !length.is_multiple_of(S::PER_WORD) {
        panel.fill(bytemuck::Zeroable::zeroed());
    }
    for (word, step) in panel.chunks_exact_mut(LANES * S::PER_WORD).enumerate() {
        for half in 0..S::PER_WORD.min(length - word * S::PER_WORD) {
            let k = word * S::PER_WORD + half;
            // SAFETY: the caller's promise.
            let row = unsafe { std::slice::from_raw_parts(source.wrapping_add(k * stride), lanes) };
            for (lane, value) in row.iter().enumerate() {
                step[lane * S::PER_WORD + half] = S::pack(*value);
            }
        }
    }
}
