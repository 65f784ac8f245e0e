use lighterage_shape::Float;

use super::elementary::round_bf16;
use crate::activation;

/// What happens to a sum before it is stored: `residual + gate * activation(sum + bias)`, in f32, rounded to the element type where
/// the reference, for which each of these is an op of its own, rounds it: after the bias, the activation, the gate and the residual.
/// Rounding once would be nearer to f32, but a bf16 picture is compared with the reference's own: where the model amplifies an error, the same
/// roundings give the same error (bundled model, golden case 4: 1.3e-2 instead of 3.3e-2 off, diffusers itself 0.8e-2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epilogue<E, O = E> {
    /// `[columns]`, or null.
    pub(crate) bias: *const E,
    /// `[columns]`, or null.
    pub(crate) gate: *const E,
    /// `[rows, columns]`, or null.
    pub(crate) residual: *const E,
    /// Elements between rows of `residual`.
    pub(crate) residual_stride: usize,
    /// Applied after the bias; numbered as in `kernels/gemm/linear.h`.
    pub(crate) activation: u32,
    /// `[rows, columns]`; may be `residual`. With `O` f32 nothing is rounded at the end.
    pub(crate) out: *mut O,
    /// Elements between rows of `out`.
    pub(crate) out_stride: usize,
}

// SAFETY: the pointers are read and written by the tasks of one launch only, each in columns and rows of its own;
// `Kernel::host`'s caller promises that they stay valid until it returns.
unsafe impl<E: Sync, O: Sync> Sync for Epilogue<E, O> {}

impl<E: Float, O: Float> Epilogue<E, O> {
    /// Finishes the sums of one row, from `column` on, and stores them.
    ///
    /// # Safety
    /// - Row `row` and columns `column .. column + sums.len()` are inside of every tensor, and nobody else touches this
    ///   part of `out`.
    #[inline(always)]
    pub(crate) unsafe fn store(&self, row: usize, column: usize, sums: &mut [f32]) {
        let count = sums.len();
        // SAFETY, all four: the caller's promise. No slice of `residual` lives when `out`, which may be the same, is written.
        if !self.bias.is_null() {
            // SAFETY: as above.
            let bias = unsafe { std::slice::from_raw_parts(self.bias.wrapping_add(column), count) };
            for (sum, bias) in sums.iter_mut().zip(bias) {
                *sum += bias.to_f32();
            }
        }
        if self.activation != 0 {
            round::<E>(sums);
            activation::apply(self.activation, sums);
        }
        if !self.gate.is_null() {
            // SAFETY: as above.
            let gate = unsafe { std::slice::from_raw_parts(self.gate.wrapping_add(column), count) };
            round::<E>(sums);
            for (sum, gate) in sums.iter_mut().zip(gate) {
                *sum *= gate.to_f32();
            }
        }
        if !self.residual.is_null() {
            let start = self.residual.wrapping_add(row * self.residual_stride + column);
            // SAFETY: as above.
            let residual = unsafe { std::slice::from_raw_parts(start, count) };
            round::<E>(sums);
            for (sum, residual) in sums.iter_mut().zip(residual) {
                *sum += residual.to_f32();
            }
        }
        // SAFETY: as above.
        let out = unsafe {
            std::slice::from_raw_parts_mut(self.out.wrapping_add(row * self.out_stride + column), count)
        };
        store_rounded(sums, out);
    }
}

/// Rounds to the element type and back.
#[inline(always)]
fn round<E: Float>(values: &mut [f32]) {
    if size_of::<E>() == 2 {
        values.iter_mut().for_each(|value| *value = round_bf16(*value).to_f32());
    }
}

/// Rounds to the element type.
#[inline(always)]
pub(crate) fn store_rounded<E: Float>(values: &[f32], out: &mut [E]) {
    for (out, value) in out.iter_mut().zip(values) {
        // `bf16` and `f32` are the two implementations; for `f32` the first rounding must not happen.
        *out =
            if size_of::<E>() == 2 { E::from_f32(round_bf16(*value).to_f32()) } else { E::from_f32(*value) };
    }
}
