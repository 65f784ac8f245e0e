use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Grid, Kernel, View, Workers};
use lighterage_kernels::params::LayerNormParams;
use lighterage_shape::Float;

use crate::check::{Check, Operand};
use crate::launch::{image, launch};
use crate::math::normalise;
use crate::rows::{Rows, RowsMut};
use crate::tasks::for_rows;
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
    let grid = Grid::warps(params.rows);
    // SAFETY: the views hold the rows that `params` names (shapes and strides checked), on this stream; x is out or apart from it.
    unsafe { launch::<B, LayerNormKernel<f32>, LayerNormKernel<bf16>>(queue, dtype, grid, &params) }
}

pub(crate) struct LayerNormKernel<E>(PhantomData<E>);

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
        for_rows(
            workers,
            p.rows as usize,
            p.columns as usize,
            #[inline(always)]
            |range| {
                let mut values = vec![0.0; p.columns as usize];
                for row in range {
                    x.load(row, 0, &mut values);
                    normalise(&mut values, p.eps);
                    for ((value, weight), bias) in values.iter_mut().zip(&weight).zip(&bias) {
                        *value = *value * weight + bias;
                    }
                    out.store(row, 0, &values);
                }
            },
        );
    }

    fn cost(p: &LayerNormParams) -> Cost {
        let (elements, columns) = (f64::from(p.rows) * f64::from(p.columns), f64::from(p.columns));
        Cost { flops: 8.0 * elements, bytes: (2.0 * elements + 2.0 * columns) * size_of::<E>() as f64 }
    }
}
