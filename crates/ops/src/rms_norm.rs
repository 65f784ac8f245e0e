use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Grid, Kernel, View, Workers};
use lighterage_kernels::params::RmsNormParams;
use lighterage_shape::Float;

use crate::check::Check;
use crate::launch::{image, launch};
use crate::math::{inverse_rms, round};
use crate::rows::{Rows, RowsMut};
use crate::tasks::for_rows;
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
    let grid = Grid::warps(params.rows);
    // SAFETY: the views hold the rows that `params` names (shapes and strides checked), on this stream; x is out or apart from it.
    unsafe { launch::<B, RmsNormKernel<f32>, RmsNormKernel<bf16>>(queue, dtype, grid, &params) }
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
        for_rows(
            workers,
            p.rows as usize,
            p.columns as usize,
            #[inline(always)]
            |range| {
                let mut values = vec![0.0; p.columns as usize];
                for row in range {
                    x.load(row, 0, &mut values);
                    let inverse = inverse_rms(&values, p.eps);
                    for (value, weight) in values.iter_mut().zip(&weight) {
                        *value = round::<E>(*value * inverse) * weight;
                    }
                    out.store(row, 0, &values);
                }
            },
        );
    }

    fn cost(p: &RmsNormParams) -> Cost {
        let (elements, columns) = (f64::from(p.rows) * f64::from(p.columns), f64::from(p.columns));
        Cost { flops: 4.0 * elements, bytes: (2.0 * elements + columns) * size_of::<E>() as f64 }
    }
}
