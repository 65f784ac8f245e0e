use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Kernel, Launches, Target, View, Workers};
use lighterage_kernels::gemm;
use lighterage_kernels::params::TransposeParams;
use lighterage_shape::Float;

use crate::check::Check;
use crate::launch::{for_bf16, image, launch};
use crate::rows::{Rows, RowsMut};
use crate::tasks::for_rows;
use crate::{Queue, Result};

/// `out = x^T`.
#[derive(Clone, Copy, Debug)]
pub struct Transpose<'a> {
    /// `[rows, columns]`, dense rows.
    pub x: View<'a>,
    /// `[columns, rows]`, dense rows; overlaps nothing.
    pub out: View<'a>,
}

/// `out[c, r] = x[r, c]`: what [`linear`](crate::linear) needs where the summed dimension of a matrix runs down.
///
/// # Errors
/// An [`Error`](crate::Error) that names the tensor if a shape, type, stride, stream or overlap does not suit, or that there are more than 4194240 rows (what a
/// grid holds); nothing is launched then.
#[expect(clippy::cast_precision_loss, reason = "for a message")]
pub fn transpose<B: Backend>(queue: &Queue<B>, args: &Transpose<'_>) -> Result<()> {
    let check = Check::new("transpose", queue);
    let x = check.tensor("x", args.x)?.dense_rows()?;
    let (dtype, [rows, columns]) = (x.float()?, x.extents()?);
    let out = check.tensor("out", args.out)?.is(dtype, &[columns, rows])?.dense_rows()?;
    x.apart(out)?;
    check.value("rows", rows as f64, "at most 4194240", rows <= gemm::transpose::ROWS_MAX as usize)?;
    let params = TransposeParams {
        x: x.address(),
        out: out.address(),
        x_stride: x.stride(0),
        out_stride: out.stride(0),
        rows: check.count("rows", rows)?,
        columns: check.count("columns", columns)?,
    };
    if rows == 0 || columns == 0 {
        return Ok(());
    }
    // SAFETY: the views hold the rows that `params` names (shapes and strides checked), on this stream; out is apart from x.
    unsafe { launch::<B, TransposeKernel<f32>, TransposeKernel<bf16>>(queue, dtype, &params) }
}

struct TransposeKernel<E>(PhantomData<E>);

impl<E: Float> Kernel for TransposeKernel<E> {
    type Params = TransposeParams;

    const NAME: &'static str = image(E::DTYPE, "transpose_f32", "transpose_bf16");

    unsafe fn host(p: &TransposeParams, workers: &Workers) {
        // SAFETY: the caller's promise.
        let x = unsafe { Rows::<E>::new(p.x, p.rows, p.columns, p.x_stride) };
        // SAFETY: the caller's promise; a task stores rows of its own.
        let out = unsafe { RowsMut::<E>::new(p.out, p.columns, p.rows, p.out_stride) };
        for_rows(workers, p.columns as usize, p.rows as usize, |range| {
            for column in range {
                (0..p.rows as usize).for_each(|row| out.set(column, row, x.get(row, column)));
            }
        });
    }

    fn cost(p: &TransposeParams) -> Cost {
        let elements = f64::from(p.rows) * f64::from(p.columns);
        Cost { flops: 0.0, bytes: 2.0 * elements * size_of::<E>() as f64 }
    }

    fn launches(p: &TransposeParams, target: Target) -> Launches {
        for_bf16::<E>(|| gemm::transpose::launches(p, target))
    }
}

#[cfg(test)]
mod tests {
    use lighterage_shape::DType;
    use lighterage_testkit::Rng;

    use super::*;
    use crate::testing::{Board, DTYPES, assert_refused, dry, normals, on_hosts};

    fn check([rows, columns]: [usize; 2], gap: bool) {
        for dtype in DTYPES {
            let x = normals(&mut Rng::from_env(1), dtype, rows * columns, 0.0);
            let got = on_hosts(|queue| {
                let from = Board::new(queue, dtype, [rows, columns], &x, gap)?;
                let out = Board::poisoned(queue, dtype, [columns, rows], gap)?;
                transpose(queue, &Transpose { x: from.view(), out: out.view() })?;
                out.read(queue)
            });
            let expected: Vec<f32> = (0..x.len()).map(|i| x[i % rows * columns + i / rows]).collect();
            assert_eq!(got, expected, "{rows} x {columns} {dtype}");
        }
    }

    #[test]
    fn rows_become_columns() {
        for shape in [[1, 1], [1, 9], [9, 1], [17, 5], [130, 300]] {
            check(shape, false);
            check(shape, true);
        }
    }

    #[test]
    fn no_rows() {
        check([0, 4], false);
    }

    #[test]
    fn bad_arguments_are_refused_with_numbers() {
        let queue = dry();
        let tensor = |shape: &[usize]| queue.tensor(DType::Bf16, shape, "x").unwrap();
        let (x, out, square) = (tensor(&[4, 6]), tensor(&[6, 4]), tensor(&[4, 4]));
        transpose(&queue, &Transpose { x: x.view(), out: out.view() }).unwrap();
        let wrong = transpose(&queue, &Transpose { x: x.view(), out: x.view() });
        assert_refused(wrong, "transpose: out should be [6, 4], is BF16[4, 6]");
        let in_place = transpose(&queue, &Transpose { x: square.view(), out: square.view() });
        assert_refused(in_place, "transpose: x overlaps out, which is written");
    }

    #[test]
    fn rows_that_no_grid_has() {
        let queue = dry();
        let tensor = |shape: &[usize]| queue.tensor(DType::Bf16, shape, "x").unwrap();
        let rows = gemm::transpose::ROWS_MAX as usize;
        let (x, out) = (tensor(&[rows, 1]), tensor(&[1, rows]));
        transpose(&queue, &Transpose { x: x.view(), out: out.view() }).unwrap();
        let (x, out) = (tensor(&[rows + 1, 1]), tensor(&[1, rows + 1]));
        let wrong = transpose(&queue, &Transpose { x: x.view(), out: out.view() });
        assert_refused(wrong, "transpose: rows is 4194241, should be at most 4194240");
    }
}
