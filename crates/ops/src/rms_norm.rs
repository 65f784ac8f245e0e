use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Kernel, Launches, Target, View, Workers};
use lighterage_kernels::norm;
use lighterage_kernels::params::RmsNormParams;
use lighterage_shape::Float;

use crate::check::Check;
use crate::launch::{for_bf16, image, launch};
use crate::math::{inverse_rms, round};
use crate::rows::{Rows, RowsMut};
use crate::tasks::map_rows;
use crate::{Queue, Result};

/// `out = x * rsqrt(mean(x^2) + eps) * weight`, by rows.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm<'a> {
    /// `[rows, columns]`, dense rows.
    pub x: View<'a>,
    /// `[columns]`.
    pub weight: View<'a>,
    /// Added to the mean square.
    pub eps: f32,
    /// `[rows, columns]`; may be `x`.
    pub out: View<'a>,
}

/// `out = x * rsqrt(mean(x^2) + eps) * weight` for every row, in f32; the normalised value is rounded to the element type before the weight.
///
/// # Errors
/// An [`Error`](crate::Error) that names the tensor if a shape, type, stride, stream or overlap does not suit; nothing is launched then.
pub fn rms_norm<B: Backend>(queue: &Queue<B>, args: &RmsNorm<'_>) -> Result<()> {
    let check = Check::new("rms_norm", queue);
    let x = check.tensor("x", args.x)?.dense_rows()?;
    let [rows, columns] = x.extents()?;
    let dtype = x.float()?;
    let out = check.tensor("out", args.out)?.is(dtype, &[rows, columns])?.dense_rows()?;
    x.same_or_apart(out)?;
    let weight = check.tensor("weight", args.weight)?.is(dtype, &[columns])?.contiguous()?.apart(out)?;
    let params = RmsNormParams {
        x: x.address(),
        weight: weight.address(),
        out: out.address(),
        x_stride: x.stride(0),
        out_stride: out.stride(0),
        rows: check.count("rows", rows)?,
        columns: check.count("columns", columns)?,
        eps: args.eps,
        padding: 0,
    };
    // SAFETY: the views hold the rows that `params` names (shapes and strides checked), on this stream; x is out or apart from it.
    unsafe { launch::<B, RmsNormKernel<f32>, RmsNormKernel<bf16>>(queue, dtype, &params) }
}

struct RmsNormKernel<E>(PhantomData<E>);

impl<E: Float> Kernel for RmsNormKernel<E> {
    type Params = RmsNormParams;

    const NAME: &'static str = image(E::DTYPE, "rms_norm_f32", "rms_norm_bf16");

    unsafe fn host(p: &RmsNormParams, workers: &Workers) {
        // SAFETY: the caller's promise.
        let x = unsafe { Rows::<E>::new(p.x, p.rows, p.columns, p.x_stride) };
        // SAFETY: the caller's promise.
        let weight = unsafe { Rows::<E>::vector(p.weight, p.columns) }.to_vec(0);
        // SAFETY: the caller's promise; a task stores the rows that it has loaded.
        let out = unsafe { RowsMut::<E>::new(p.out, p.rows, p.columns, p.out_stride) };
        map_rows(
            workers,
            [p.rows, p.columns],
            &x,
            &out,
            #[inline(always)]
            |values| {
                let inverse = inverse_rms(values, p.eps);
                for (value, weight) in values.iter_mut().zip(&weight) {
                    *value = round::<E>(*value * inverse) * weight;
                }
            },
        );
    }

    fn cost(p: &RmsNormParams) -> Cost {
        let (elements, columns) = (f64::from(p.rows) * f64::from(p.columns), f64::from(p.columns));
        Cost { flops: 4.0 * elements, bytes: (2.0 * elements + columns) * size_of::<E>() as f64 }
    }

    fn launches(p: &RmsNormParams, target: Target) -> Launches {
        for_bf16::<E>(|| norm::rms_norm::launches(p, target))
    }
}

#[cfg(test)]
mod tests {
    use lighterage_shape::DType;
    use lighterage_testkit::Rng;

    use super::*;
    use crate::testing::{
        Board, COLUMNS, DTYPES, assert_near, assert_refused, dry, normals, on_hosts, rounding,
    };

    /// So large that it matters beside a variance of 1.
    const EPS: f32 = 0.25;

    fn exact(x: &[f32], weight: &[f32]) -> Vec<f64> {
        let columns = weight.len();
        let row = |row: &[f32]| {
            let square: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
            let inverse = 1.0 / (square / columns as f64 + f64::from(EPS)).sqrt();
            row.iter().zip(weight).map(|(x, w)| f64::from(*x) * inverse * f64::from(*w)).collect::<Vec<_>>()
        };
        x.chunks(columns).flat_map(row).collect()
    }

    fn check([rows, columns]: [usize; 2], mean: f32, gap: bool) {
        let mut rng = Rng::from_env(1);
        for dtype in DTYPES {
            let x = normals(&mut rng, dtype, rows * columns, mean);
            let weight = normals(&mut rng, dtype, columns, 1.0);
            let run = |in_place: bool| {
                on_hosts(|queue| {
                    let x = Board::new(queue, dtype, [rows, columns], &x, gap)?;
                    let weight = queue.upload_as(dtype, &weight, &[columns], "weight")?;
                    let fresh = Board::poisoned(queue, dtype, [rows, columns], gap)?;
                    let out = if in_place { &x } else { &fresh };
                    rms_norm(
                        queue,
                        &RmsNorm { x: x.view(), weight: weight.view(), eps: EPS, out: out.view() },
                    )?;
                    out.read(queue)
                })
            };
            let (got, exact) = (run(false), exact(&x, &weight));
            // A sum of columns / 64 values a lane, then six halvings, its root, and four more operations; in bf16 the value is
            // rounded before the weight.
            let relative = (columns as f64 / 64.0 + 12.0) * rounding(DType::F32);
            let before = if dtype == DType::F32 { 0.0 } else { rounding(dtype) };
            assert_near("rms_norm", dtype, &got, &exact, |i| (relative + before) * exact[i].abs());
            assert_eq!(run(true), got, "in place");
        }
    }

    #[test]
    fn ragged_columns() {
        for columns in COLUMNS {
            check([3, columns], 0.0, false);
        }
    }

    #[test]
    fn strided_rows_at_odd_starts() {
        check([5, 127], 0.0, true);
        check([2, 3072], 0.0, true);
    }

    #[test]
    fn large_means() {
        check([2, 3072], 40.0, false);
        check([2, 3072], 400.0, false);
    }

    #[test]
    fn rows_enough_for_several_tasks() {
        check([129, 300], 0.0, false);
    }

    #[test]
    fn no_rows() {
        check([0, 16], 0.0, false);
    }

    #[test]
    fn the_value_is_rounded_before_the_weight() {
        // 3 / 2.5 is 1.2, in bf16 1.203125; times 1.5 that is 1.8046875, while 1.2 * 1.5 would be stored as 1.796875.
        let got = on_hosts(|queue| {
            let x = queue.upload_as(DType::Bf16, &[3.0, 4.0, 0.0, 0.0], &[1, 4], "x")?;
            let weight = queue.upload_as(DType::Bf16, &[1.5; 4], &[4], "weight")?;
            rms_norm(queue, &RmsNorm { x: x.view(), weight: weight.view(), eps: 0.0, out: x.view() })?;
            Ok(queue.read_f32(x.view())?.unwrap())
        });
        assert_eq!(got, [1.804_687_5, 2.406_25, 0.0, 0.0]);
    }

    #[test]
    fn bad_arguments_are_refused_with_numbers() {
        let (queue, other) = (dry(), dry());
        let tensor = |shape: &[usize]| queue.tensor(DType::Bf16, shape, "x").unwrap();
        let (x, weight, out) = (tensor(&[4, 6]), tensor(&[6]), tensor(&[4, 6]));
        let (wide, short, single) =
            (tensor(&[4, 9]), tensor(&[5]), queue.tensor(DType::F32, &[6], "w").unwrap());
        let foreign = other.tensor(DType::Bf16, &[4, 6], "x").unwrap();
        let good = RmsNorm { x: x.view(), weight: weight.view(), eps: EPS, out: out.view() };
        rms_norm(&queue, &good).unwrap();
        let tall = tensor(&[6, 4]);
        let column = |start| wide.view().narrow(1, start, 6).unwrap();
        let (a, b) = (foreign.view().owner(), queue.stream().id());
        let foreign_message = format!("rms_norm: memory of {a} used on {b}");
        let cases = [
            (RmsNorm { x: weight.view(), ..good }, "rms_norm: x should have 2 dimensions, is BF16[6]"),
            (RmsNorm { weight: short.view(), ..good }, "rms_norm: weight should be [6], is BF16[5]"),
            (RmsNorm { weight: single.view(), ..good }, "rms_norm: weight should be BF16, is F32"),
            (RmsNorm { out: wide.view(), ..good }, "rms_norm: out should be [4, 6], is BF16[4, 9]"),
            (
                RmsNorm { x: tall.view().transpose(0, 1).unwrap(), ..good },
                "rms_norm: x should be dense along its last dimension, is BF16[4, 6]/[1, 4]",
            ),
            (RmsNorm { x: column(0), out: column(3), ..good }, "rms_norm: x overlaps out, which is written"),
            (
                RmsNorm { weight: out.view().reshape(&[24]).unwrap().narrow(0, 6, 6).unwrap(), ..good },
                "rms_norm: weight overlaps out, which is written",
            ),
            (RmsNorm { x: foreign.view(), ..good }, foreign_message.as_str()),
        ];
        for (args, message) in cases {
            assert_refused(rms_norm(&queue, &args), message);
        }
    }
}
