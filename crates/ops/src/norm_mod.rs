use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Grid, Kernel, View, Workers};
use lighterage_kernels::params::NormModParams;
use lighterage_shape::Float;

use crate::check::{Check, Operand};
use crate::launch::{image, launch};
use crate::math::{normalise, round};
use crate::rows::{Rows, RowsMut};
use crate::tasks::for_rows;
use crate::{Error, Queue, Result};

/// Shift and scale of one row range, `[columns]` each.
#[derive(Clone, Copy, Debug)]
pub struct Modulation<'a> {
    /// Added.
    pub shift: View<'a>,
    /// 1 + scale is the factor.
    pub scale: View<'a>,
}

/// `x += gate * y`.
#[derive(Clone, Copy, Debug)]
pub struct GatedUpdate<'a> {
    /// `[rows, columns]`, dense rows.
    pub y: View<'a>,
    /// `[columns]`, for rows below `split`.
    pub first_gate: View<'a>,
    /// `[columns]`, for rows from `split` on.
    pub second_gate: View<'a>,
}

/// AdaLN: `x += gate * y` where an update is given, then `out = LayerNorm(x) * (1 + scale) + shift`, over two row ranges.
#[derive(Clone, Copy, Debug)]
pub struct NormMod<'a> {
    /// `[rows, columns]`, dense rows; written where `update` is given.
    pub x: View<'a>,
    /// `[rows, columns]`, dense rows; overlaps nothing.
    pub out: View<'a>,
    /// Added to x first.
    pub update: Option<GatedUpdate<'a>>,
    /// First row of the second range; 0: all rows are of the second.
    pub split: usize,
    /// For rows below `split` (text).
    pub first: Modulation<'a>,
    /// For rows from `split` on (image).
    pub second: Modulation<'a>,
    /// Added to the variance.
    pub eps: f32,
}

/// `x += gate * y` where an update is given (rounded once), then `out = LayerNorm(x) * (1 + scale) + shift` of the rounded x, in f32.
///
/// # Errors
/// An [`Error`](crate::Error) that names the tensor if a shape, type, stride, stream or overlap does not suit; nothing is launched then.
pub fn norm_mod<B: Backend>(queue: &Queue<B>, args: &NormMod<'_>) -> Result<()> {
    let check = Check::new("norm_mod", queue);
    let x = check.tensor("x", args.x)?.dense_rows()?;
    let [rows, columns] = x.extents()?;
    let dtype = x.float()?;
    let out = check.tensor("out", args.out)?.is(dtype, &[rows, columns])?.dense_rows()?;
    x.apart(out)?;
    check.value("split", args.split as f64, "at most the rows", args.split <= rows)?;
    let input = |name, view, shape: &[usize]| -> Result<Operand<'_>> {
        let input = check.tensor(name, view)?.is(dtype, shape)?.dense_rows()?.apart(out)?;
        if args.update.is_some() { input.apart(x) } else { Ok(input) }
    };
    let vector = |name, view| Ok::<_, Error>(input(name, view, &[columns])?.contiguous()?.address());
    let (y, y_stride, first_gate, second_gate) = match &args.update {
        None => (0, 0, 0, 0),
        Some(update) => {
            let y = input("y", update.y, &[rows, columns])?;
            let gates =
                (vector("first_gate", update.first_gate)?, vector("second_gate", update.second_gate)?);
            (y.address(), y.stride(0), gates.0, gates.1)
        }
    };
    let params = NormModParams {
        x: x.address(),
        y,
        out: out.address(),
        first_shift: vector("first.shift", args.first.shift)?,
        first_scale: vector("first.scale", args.first.scale)?,
        first_gate,
        second_shift: vector("second.shift", args.second.shift)?,
        second_scale: vector("second.scale", args.second.scale)?,
        second_gate,
        x_stride: x.stride(0),
        y_stride,
        out_stride: out.stride(0),
        rows: check.count("rows", rows)?,
        columns: check.count("columns", columns)?,
        split: check.count("split", args.split)?,
        eps: args.eps,
    };
    let grid = Grid::warps(params.rows);
    // SAFETY: the views hold the rows and vectors that `params` names (checked), on this stream; what is written is apart from what is read.
    unsafe { launch::<B, NormModKernel<f32>, NormModKernel<bf16>>(queue, dtype, grid, &params) }
}

struct NormModKernel<E>(PhantomData<E>);

impl<E: Float> Kernel for NormModKernel<E> {
    type Params = NormModParams;

    const NAME: &'static str = image(E::DTYPE, "norm_mod_f32", "norm_mod_bf16");

    unsafe fn host(p: &NormModParams, workers: &Workers) {
        // SAFETY: the caller's promise; a task stores the rows that it has loaded, and none where there is no y.
        let x = unsafe { RowsMut::<E>::new(p.x, p.rows, p.columns, p.x_stride) };
        // SAFETY: the caller's promise; with address 0 it is not used.
        let y = unsafe { Rows::<E>::new(p.y, p.rows, p.columns, p.y_stride) };
        // SAFETY: the caller's promise; each task writes its own rows.
        let out = unsafe { RowsMut::<E>::new(p.out, p.rows, p.columns, p.out_stride) };
        // SAFETY: the caller's promise; the gates' addresses are those of vectors where y is given.
        let first = unsafe { Vectors::load::<E>(p, p.first_shift, p.first_scale, p.first_gate) };
        // SAFETY: as above.
        let second = unsafe { Vectors::load::<E>(p, p.second_shift, p.second_scale, p.second_gate) };
        for_rows(
            workers,
            p.rows as usize,
            p.columns as usize,
            #[inline(always)]
            |range| {
                let mut values = vec![0.0; p.columns as usize];
                let mut update = vec![0.0; if p.y == 0 { 0 } else { p.columns as usize }];
                for row in range {
                    let vectors = if row < p.split as usize { &first } else { &second };
                    x.as_rows().load(row, 0, &mut values);
                    if p.y != 0 {
                        y.load(row, 0, &mut update);
                        for ((value, update), gate) in values.iter_mut().zip(&update).zip(&vectors.gate) {
                            *value = round::<E>(*value + gate * update);
                        }
                        x.store(row, 0, &values);
                    }
                    normalise(&mut values, p.eps);
                    for ((value, factor), shift) in values.iter_mut().zip(&vectors.factor).zip(&vectors.shift)
                    {
                        *value = *value * factor + shift;
                    }
                    out.store(row, 0, &values);
                }
            },
        );
    }

    fn cost(p: &NormModParams) -> Cost {
        let (rows, columns) = (f64::from(p.rows), f64::from(p.columns));
        let ranges = if p.split == 0 || p.split == p.rows { 1.0 } else { 2.0 };
        let (passes, vectors, flops) = if p.y == 0 { (2.0, 2.0, 9.0) } else { (4.0, 3.0, 11.0) };
        let elements = passes * rows * columns + ranges * vectors * columns;
        Cost { flops: flops * rows * columns, bytes: elements * size_of::<E>() as f64 }
    }
}

/// The vectors of one row range.
struct Vectors {
    shift: Vec<f32>,
    /// 1 + scale.
    factor: Vec<f32>,
    /// Empty where there is no update.
    gate: Vec<f32>,
}

impl Vectors {
    /// # Safety
    /// - As [`Rows::vector`] for each address; the gate's may be 0.
    unsafe fn load<E: Float>(p: &NormModParams, shift: u64, scale: u64, gate: u64) -> Self {
        // SAFETY: the caller's promise; a vector of no columns is not read, whatever its address.
        let [shift, scale, gate] =
            [(shift, p.columns), (scale, p.columns), (gate, if gate == 0 { 0 } else { p.columns })]
                .map(|(address, columns)| unsafe { Rows::<E>::vector(address, columns) }.to_vec(0));
        Self { shift, factor: scale.iter().map(|scale| 1.0 + scale).collect(), gate }
    }
}
