use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Grid, Kernel, View, Workers};
use lighterage_kernels::params::AddParams;
use lighterage_shape::Float;

use crate::check::{Check, Matrix, Operand};
use crate::launch::{image, launch};
use crate::rows::{PIECE, Rows, RowsMut};
use crate::tasks::for_pieces;
use crate::{Queue, Result};

/// `out = a + scale * b`; b may have one row, which is then added to every row of a.
#[derive(Clone, Copy, Debug)]
pub struct Add<'a> {
    /// `[rows, columns]` or `[count]`, dense rows.
    pub a: View<'a>,
    /// As `a`, or `[1, columns]`.
    pub b: View<'a>,
    /// Factor on b.
    pub scale: f32,
    /// As `a`; may be `a` or `b`.
    pub out: View<'a>,
}

/// `out = a + scale * b` for every element, computed in f32, rounded once.
///
/// # Errors
/// An [`Error`](crate::Error) that names the tensor if a shape, type, stride, stream or overlap does not suit; nothing is launched then.
pub fn add<B: Backend>(queue: &Queue<B>, args: &Add<'_>) -> Result<()> {
    let check = Check::new("add", queue);
    let (a, b) = (check.tensor("a", args.a)?, check.tensor("b", args.b)?);
    let out = check.tensor("out", args.out)?;
    let dtype = a.float()?;
    b.dtype(dtype)?;
    out.is(dtype, args.a.shape())?;
    let (left, into) = (a.matrix()?, out.matrix()?);
    let b_stride = right_stride(a, b, left)?;
    a.same_or_apart(out)?;
    b.same_or_apart(out)?;
    let params = AddParams {
        a: a.address(),
        b: b.address(),
        out: out.address(),
        a_stride: left.stride,
        b_stride,
        out_stride: into.stride,
        rows: check.count("rows", left.rows)?,
        columns: check.count("columns", left.columns)?,
        scale: args.scale,
        padding: 0,
    };
    let grid = Grid::elements((left.rows * left.columns) as u64);
    // SAFETY: the views hold the rows that `params` names (shapes and strides checked), on this stream; a and b are out or apart from it.
    unsafe { launch::<B, AddKernel<f32>, AddKernel<bf16>>(queue, dtype, grid, &params) }
}

/// The row stride of b, which has the shape of a or is one row for all of a: then the stride is 0.
fn right_stride(a: Operand<'_>, b: Operand<'_>, left: Matrix) -> Result<u64> {
    let repeated = left.rows != 1 && b.view().shape() == [1, left.columns];
    let expected = if repeated { b.view() } else { a.view() };
    let right = b.shape(expected.shape())?.matrix()?;
    Ok(if repeated { 0 } else { right.stride })
}

struct AddKernel<E>(PhantomData<E>);

impl<E: Float> Kernel for AddKernel<E> {
    type Params = AddParams;

    const NAME: &'static str = image(E::DTYPE, "add_f32", "add_bf16");

    unsafe fn host(p: &AddParams, workers: &Workers) {
        // SAFETY: the caller's promise.
        let a = unsafe { Rows::<E>::new(p.a, p.rows, p.columns, p.a_stride) };
        // SAFETY: the caller's promise; with stride 0 every row is the first.
        let b = unsafe { Rows::<E>::new(p.b, p.rows, p.columns, p.b_stride) };
        // SAFETY: the caller's promise; a task stores the piece that it has loaded.
        let out = unsafe { RowsMut::<E>::new(p.out, p.rows, p.columns, p.out_stride) };
        for_pieces(
            workers,
            p.rows as usize,
            p.columns as usize,
            #[inline(always)]
            |row, start, length| {
                let (mut left, mut right) = ([0.0; PIECE], [0.0; PIECE]);
                let (left, right) = (&mut left[..length], &mut right[..length]);
                a.load(row, start, left);
                b.load(row, start, right);
                for (l, r) in left.iter_mut().zip(right) {
                    *l += p.scale * *r;
                }
                out.store(row, start, left);
            },
        );
    }

    fn cost(p: &AddParams) -> Cost {
        let elements = f64::from(p.rows) * f64::from(p.columns);
        let right = if p.b_stride == 0 { f64::from(p.columns) } else { elements };
        Cost { flops: 2.0 * elements, bytes: (2.0 * elements + right) * size_of::<E>() as f64 }
    }
}
