use lighterage_shape::Float;

use super::{Job, LANES, ROW_STRIDE, Simd, Tile, pack};

/// What every machine has; `bf16` is widened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

impl<E: Float> Simd<E> for Portable {
    type Packed = f32;

    const FMA: bool = false;

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

    unsafe fn enter<J: Job<E>>(job: &J, task: usize) {
        job.run::<Self>(task);
    }

    unsafe fn tile(rows: usize, tile: &Tile) {
        for row in 0..rows {
            // SAFETY: the caller's promise: `words` words of each row, `words * LANES` of the panel, `LANES` of each row of c.
            let a = unsafe {
                std::slice::from_raw_parts(tile.a.wrapping_add(row * ROW_STRIDE).cast(), tile.words)
            };
            // SAFETY: as above.
            let b = unsafe { std::slice::from_raw_parts(tile.b.cast(), tile.words * LANES) };
            // SAFETY: as above; c is written by this tile alone.
            let c =
                unsafe { std::slice::from_raw_parts_mut(tile.c.wrapping_add(row * tile.c_stride), LANES) };
            multiply_row(a, b, c, tile.accumulate);
        }
    }
}

fn multiply_row(a: &[f32], b: &[f32], c: &mut [f32], accumulate: bool) {
    let mut sum = [0.0_f32; LANES];
    for (a, b) in a.iter().zip(b.as_chunks::<LANES>().0) {
        for (sum, b) in sum.iter_mut().zip(b) {
            *sum += a * b;
        }
    }
    for (c, sum) in c.iter_mut().zip(sum) {
        *c = if accumulate { *c + sum } else { sum };
    }
}
