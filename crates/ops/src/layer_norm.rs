use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Kernel, Launches, Target, View, Workers};
use lighterage_kernels::norm;
use lighterage_kernels::params::LayerNormParams;
use lighterage_shape::Float;

use crate::check::{Check, Operand};
use crate::launch::{for_bf16, image, launch};
use crate::math::normalise;
use crate::rows::{Rows, RowsMut};
use crate::tasks::map_rows;
use crate::{Queue, Result};

/// `out = (x - mean) * rsqrt(var + eps) * weight + bias`, by rows.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// `[rows, columns]`, dense rows.
    pub x: View<'a>,
    /// `[columns]`.
    pub weight: View<'a>,
    /// `[columns]`.
    pub bias: View<'a>,
    /// Added to the variance.
    pub eps: f32,
    /// `[rows, columns]`; may be `x`.
    pub out: View<'a>,
}

/// `out = (x - mean) * rsqrt(var + eps) * weight + bias` for every row, in f32, rounded once.
///
/// # Errors
/// An [`Error`](crate::Error) that names the tensor if a shape, type, stride, stream or overlap does not suit; nothing is launched then.
pub fn layer_norm<B: Backend>(queue: &Queue<B>, args: &LayerNorm<'_>) -> Result<()> {
    let check = Check::new("layer_norm", queue);
    let x = check.tensor("x", args.x)?.dense_rows()?;
    let [rows, columns] = x.extents()?;
    let dtype = x.float()?;
    let out = check.tensor("out", args.out)?.is(dtype, &[rows, columns])?.dense_rows()?;
    x.same_or_apart(out)?;
    let vector = |name, view| -> Result<Operand<'_>> {
        check.tensor(name, view)?.is(dtype, &[columns])?.contiguous()?.apart(out)
    };
    let (weight, bias) = (vector("weight", args.weight)?, vector("bias", args.bias)?);
    let params = LayerNormParams {
        x: x.address(),
        weight: weight.address(),
        bias: bias.address(),
        out: out.address(),
        x_stride: x.stride(0),
        out_stride: out.stride(0),
        rows: check.count("rows", rows)?,
        columns: check.count("columns", columns)?,
        eps: args.eps,
        padding: 0,
    };
    // SAFETY: the views hold the rows that `params` names (shapes and strides checked), on this stream; x is out or apart from it.
    unsafe { launch::<B, LayerNormKernel<f32>, LayerNormKernel<bf16>>(queue, dtype, &params) }
}

struct LayerNormKernel<E>(PhantomData<E>);

impl<E: Float> Kernel for LayerNormKernel<E> {
    type Params = LayerNormParams;

    const NAME: &'static str = image(E::DTYPE, "layer_norm_f32", "layer_norm_bf16");

    unsafe fn host(p: &LayerNormParams, workers: &Workers) {
        // SAFETY: the caller's promise.
        let x = unsafe { Rows::<E>::new(p.x, p.rows, p.columns, p.x_stride) };
        // SAFETY: the caller's promise.
        let weight = unsafe { Rows::<E>::vector(p.weight, p.columns) }.to_vec(0);
        // SAFETY: the caller's promise.
        let bias = unsafe { Rows::<E>::vector(p.bias, p.columns) }.to_vec(0);
        // SAFETY: the caller's promise; a task stores the rows that it has loaded.
        let out = unsafe { RowsMut::<E>::new(p.out, p.rows, p.columns, p.out_stride) };
        map_rows(
            workers,
            [p.rows, p.columns],
            &x,
            &out,
            #[inline(always)]
            |values| {
                normalise(values, p.eps);
                for ((value, weight), bias) in values.iter_mut().zip(&weight).zip(&bias) {
                    *value = *value * weight + bias;
                }
            },
        );
    }

    fn cost(p: &LayerNormParams) -> Cost {
        let (elements, columns) = (f64::from(p.rows) * f64::from(p.columns), f64::from(p.columns));
        Cost { flops: 8.0 * elements, bytes: (2.0 * elements + 2.0 * columns) * size_of::<E>() as f64 }
    }

    fn launches(p: &LayerNormParams, target: Target) -> Launches {
        for_bf16::<E>(|| norm::layer_norm::launches(p, target))
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

    /// Mean and variance in f64.
    fn moments(row: &[f32]) -> (f64, f64) {
        let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / row.len() as f64;
        (mean, row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / row.len() as f64)
    }

    fn check([rows, columns]: [usize; 2], mean: f32, gap: bool) {
        let mut rng = Rng::from_env(2);
        for dtype in DTYPES {
            let x = normals(&mut rng, dtype, rows * columns, mean);
            let (weight, bias) =
                (normals(&mut rng, dtype, columns, 1.0), normals(&mut rng, dtype, columns, 0.0));
            let run = |in_place: bool| {
                on_hosts(|queue| {
                    let x = Board::new(queue, dtype, [rows, columns], &x, gap)?;
                    let weight = queue.upload_as(dtype, &weight, &[columns], "weight")?;
                    let bias = queue.upload_as(dtype, &bias, &[columns], "bias")?;
                    let fresh = Board::poisoned(queue, dtype, [rows, columns], gap)?;
                    let out = if in_place { &x } else { &fresh };
                    let (weight, bias) = (weight.view(), bias.view());
                    layer_norm(queue, &LayerNorm { x: x.view(), weight, bias, eps: EPS, out: out.view() })?;
                    out.read(queue)
                })
            };
            let got = run(false);
            let (mut exact, mut bounds) = (Vec::new(), Vec::new());
            for row in x.chunks(columns) {
                let (mean, variance) = moments(row);
                let factor = 1.0 / (variance + f64::from(EPS)).sqrt();
                // Sums of columns / 64 values a lane and six halvings; the error of the mean moves every value, and enters the
                // variance by its square.
                let sum = (columns as f64 / 64.0 + 10.0) * rounding(DType::F32);
                let shift =
                    sum * row.iter().map(|x| f64::from(x.abs())).sum::<f64>() / columns as f64 * factor;
                for ((x, weight), bias) in row.iter().zip(&weight).zip(&bias) {
                    let (normal, weight) = ((f64::from(*x) - mean) * factor, f64::from(*weight));
                    exact.push(normal * weight + f64::from(*bias));
                    let scale = normal.abs() * weight.abs();
                    bounds.push(
                        shift * weight.abs()
                            + scale * (sum + shift * shift)
                            + 4.0 * rounding(DType::F32) * (scale + f64::from(bias.abs())),
                    );
                }
            }
            assert_near("layer_norm", dtype, &got, &exact, |i| bounds[i]);
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
    fn bad_arguments_are_refused_with_numbers() {
        let queue = dry();
        let tensor = |shape: &[usize]| queue.tensor(DType::F32, shape, "x").unwrap();
        let (x, weight, bias, out) = (tensor(&[4, 6]), tensor(&[6]), tensor(&[6]), tensor(&[4, 6]));
        let (short, tall) = (tensor(&[5]), tensor(&[5, 6]));
        let good =
            LayerNorm { x: x.view(), weight: weight.view(), bias: bias.view(), eps: EPS, out: out.view() };
        layer_norm(&queue, &good).unwrap();
        let cases = [
            (LayerNorm { x: bias.view(), ..good }, "layer_norm: x should have 2 dimensions, is F32[6]"),
            (LayerNorm { weight: short.view(), ..good }, "layer_norm: weight should be [6], is F32[5]"),
            (LayerNorm { bias: short.view(), ..good }, "layer_norm: bias should be [6], is F32[5]"),
            (LayerNorm { out: tall.view(), ..good }, "layer_norm: out should be [4, 6], is F32[5, 6]"),
            (
                LayerNorm {
                    x: tall.view().rows(0, 4).unwrap(),
                    out: tall.view().rows(1, 4).unwrap(),
                    ..good
                },
                "layer_norm: x overlaps out, which is written",
            ),
        ];
        for (args, message) in cases {
            assert_refused(layer_norm(&queue, &args), message);
        }
    }
}
