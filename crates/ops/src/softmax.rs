use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Kernel, Launches, Target, View, Workers};
use lighterage_kernels::norm;
use lighterage_kernels::params::SoftmaxParams;
use lighterage_shape::{DType, Float};

use crate::check::Check;
use crate::math;
use crate::rows::{Rows, RowsMut};
use crate::tasks::map_rows;
use crate::{Queue, Result};

/// `out = softmax(scale * x)` of every row.
#[derive(Clone, Copy, Debug)]
pub struct Softmax<'a> {
    /// `[rows, columns]`, dense rows.
    pub x: View<'a>,
    /// Factor on x.
    pub scale: f32,
    /// As `x`, or bf16 where x is f32; may be `x`.
    pub out: View<'a>,
}

/// `out[r, c] = exp(scale x[r, c] - m) / sum_j exp(scale x[r, j] - m)`, m the row's largest value: computed in f32, rounded once.
///
/// # Errors
/// An [`Error`](crate::Error) that names the tensor if a shape, type, stride, stream or overlap does not suit, or if the scale is not finite;
/// nothing is launched then.
pub fn softmax<B: Backend>(queue: &Queue<B>, args: &Softmax<'_>) -> Result<()> {
    let check = Check::new("softmax", queue);
    let x = check.tensor("x", args.x)?.dense_rows()?;
    let (from, [rows, columns]) = (x.float()?, x.extents()?);
    let out = check.tensor("out", args.out)?.shape(&[rows, columns])?.dense_rows()?;
    let into = out.float()?;
    if from == DType::Bf16 {
        out.dtype(DType::Bf16)?;
    }
    x.same_or_apart(out)?;
    check.value("scale", f64::from(args.scale), "finite", args.scale.is_finite())?;
    let params = SoftmaxParams {
        x: x.address(),
        out: out.address(),
        x_stride: x.stride(0),
        out_stride: out.stride(0),
        rows: check.count("rows", rows)?,
        columns: check.count("columns", columns)?,
        scale: args.scale,
        padding: 0,
    };
    if rows == 0 || columns == 0 {
        return Ok(());
    }
    let stream = queue.stream();
    match (from, into) {
        // SAFETY: the views hold the rows that `params` names (shapes and strides checked), on this stream; x is out or apart from it.
        (DType::F32, DType::F32) => unsafe { stream.launch::<SoftmaxKernel<f32, f32>>(&params) }?,
        // SAFETY: as above.
        (DType::F32, _) => unsafe { stream.launch::<SoftmaxKernel<f32, bf16>>(&params) }?,
        // SAFETY: as above.
        _ => unsafe { stream.launch::<SoftmaxKernel<bf16, bf16>>(&params) }?,
    }
    Ok(())
}

struct SoftmaxKernel<I, O>(PhantomData<(I, O)>);

impl<I: Float, O: Float> Kernel for SoftmaxKernel<I, O> {
    type Params = SoftmaxParams;

    const NAME: &'static str = match (I::DTYPE, O::DTYPE) {
        (DType::F32, DType::F32) => "softmax_f32",
        (DType::F32, _) => "softmax_f32_bf16",
        _ => "softmax_bf16",
    };

    unsafe fn host(p: &SoftmaxParams, workers: &Workers) {
        // SAFETY: the caller's promise.
        let x = unsafe { Rows::<I>::new(p.x, p.rows, p.columns, p.x_stride) };
        // SAFETY: the caller's promise; a task stores the rows that it has loaded.
        let out = unsafe { RowsMut::<O>::new(p.out, p.rows, p.columns, p.out_stride) };
        map_rows(
            workers,
            [p.rows, p.columns],
            &x,
            &out,
            #[inline(always)]
            |values| soften(values, p.scale),
        );
    }

    fn cost(p: &SoftmaxParams) -> Cost {
        let elements = f64::from(p.rows) * f64::from(p.columns);
        Cost { flops: 6.0 * elements, bytes: elements * (size_of::<I>() + size_of::<O>()) as f64 }
    }

    fn launches(p: &SoftmaxParams, target: Target) -> Launches {
        match (I::DTYPE, O::DTYPE) {
            (_, DType::F32) => Launches::NONE,
            (DType::F32, _) => norm::softmax::launches_from_f32(p, target),
            _ => norm::softmax::launches(p, target),
        }
    }
}

/// One row in place. A row of minus infinity alone is NaN, as 0 / 0.
#[inline(always)]
fn soften(values: &mut [f32], scale: f32) {
    let mut largest = f32::NEG_INFINITY;
    for value in values.iter_mut() {
        *value *= scale;
        largest = largest.max(*value);
    }
    for value in values.iter_mut() {
        *value = math::exp(*value - largest);
    }
    let inverse = 1.0
        / math::sum(
            values,
            #[inline(always)]
            |value| value,
        );
    for value in values.iter_mut() {
        *value *= inverse;
    }
}

#[cfg(test)]
mod tests {
    use lighterage_testkit::Rng;

    use super::*;
    use crate::testing::{
        Board, COLUMNS, DTYPES, assert_near, assert_refused, dry, held, normals, on_hosts, rounding,
    };

    fn exact(x: &[f32], columns: usize, scale: f32) -> Vec<f64> {
        let row = |row: &[f32]| {
            let scores: Vec<f64> = row.iter().map(|x| f64::from(*x) * f64::from(scale)).collect();
            let largest = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
            scores.iter().map(|score| (score - largest).exp() / sum).collect::<Vec<_>>()
        };
        x.chunks(columns.max(1)).flat_map(row).collect()
    }

    /// Every pair of types that the op takes.
    const TYPES: [[DType; 2]; 3] =
        [[DType::F32, DType::F32], [DType::F32, DType::Bf16], [DType::Bf16, DType::Bf16]];

    fn check([rows, columns]: [usize; 2], scale: f32, mean: f32, gap: bool) {
        for [from, into] in TYPES {
            let x = normals(&mut Rng::from_env(1), from, rows * columns, mean);
            let got = on_hosts(|queue| {
                let x = Board::new(queue, from, [rows, columns], &x, gap)?;
                let out = Board::poisoned(queue, into, [rows, columns], gap)?;
                softmax(queue, &Softmax { x: x.view(), scale, out: out.view() })?;
                out.read(queue)
            });
            let exact = exact(&x, columns, scale);
            // The scaled value and its distance to the largest are rounded: relative errors of the exponential; it, the sum of columns / 64 a lane and six
            // halvings, and the division are a few more.
            let reach = x.iter().fold(0.0_f32, |most, x| most.max((x * scale).abs()));
            let relative = (4.0 * f64::from(reach) + columns as f64 / 64.0 + 16.0) * rounding(DType::F32);
            assert_near("softmax", into, &got, &exact, |i| relative * exact[i]);
        }
    }

    #[test]
    fn ragged_columns() {
        for columns in COLUMNS {
            check([3, columns], 1.0, 0.0, false);
        }
    }

    #[test]
    fn strided_rows_at_odd_starts() {
        check([5, 127], 0.3, 0.0, true);
        check([2, 3072], 3.0, 0.0, true);
    }

    #[test]
    fn large_and_negative_scores() {
        check([2, 129], 1.0, 400.0, false);
        check([2, 129], -300.0, 0.0, false);
    }

    #[test]
    fn no_rows_and_no_columns() {
        check([0, 16], 1.0, 0.0, false);
        check([16, 0], 1.0, 0.0, false);
    }

    #[test]
    fn in_place_and_masked() {
        for dtype in DTYPES {
            let got = on_hosts(|queue| {
                let x = queue.upload_as(
                    dtype,
                    &[f32::NEG_INFINITY, 2.0, 2.0, f32::NEG_INFINITY],
                    &[1, 4],
                    "x",
                )?;
                softmax(queue, &Softmax { x: x.view(), scale: 1.0, out: x.view() })?;
                Ok(queue.read_f32(x.view())?.unwrap())
            });
            assert_eq!(got, [0.0, 0.5, 0.5, 0.0].map(|value| held(dtype, value)));
        }
    }

    #[test]
    fn bad_arguments_are_refused_with_numbers() {
        let queue = dry();
        let tensor = |dtype, shape: &[usize]| queue.tensor(dtype, shape, "x").unwrap();
        let (x, out) = (tensor(DType::Bf16, &[4, 6]), tensor(DType::Bf16, &[4, 6]));
        let (wide, single) = (tensor(DType::Bf16, &[4, 9]), tensor(DType::F32, &[4, 6]));
        let good = Softmax { x: x.view(), scale: 1.0, out: out.view() };
        softmax(&queue, &good).unwrap();
        softmax(&queue, &Softmax { x: single.view(), ..good }).unwrap();
        let column = |start| wide.view().narrow(1, start, 6).unwrap();
        let cases = [
            (Softmax { out: wide.view(), ..good }, "softmax: out should be [4, 6], is BF16[4, 9]"),
            (Softmax { out: single.view(), ..good }, "softmax: out should be BF16, is F32"),
            (Softmax { x: column(0), out: column(3), ..good }, "softmax: x overlaps out, which is written"),
            (Softmax { scale: f32::NAN, ..good }, "softmax: scale is NaN, should be finite"),
        ];
        for (args, message) in cases {
            assert_refused(softmax(&queue, &args), message);
        }
    }
}
