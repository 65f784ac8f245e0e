use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Kernel, Launches, Target, View, Workers};
use lighterage_kernels::elementwise;
use lighterage_kernels::params::AddParams;
use lighterage_shape::Float;

use crate::check::{Check, Matrix, Operand};
use crate::launch::{for_bf16, image, launch};
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
    // SAFETY: the views hold the rows that `params` names (shapes and strides checked), on this stream; a and b are out or apart from it.
    unsafe { launch::<B, AddKernel<f32>, AddKernel<bf16>>(queue, dtype, &params) }
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

    fn launches(p: &AddParams, target: Target) -> Launches {
        for_bf16::<E>(|| elementwise::add::launches(p, target))
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

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Target {
        Fresh,
        A,
        B,
    }

    fn check([rows, columns]: [usize; 2], right_rows: usize, gap: bool) {
        let mut rng = Rng::from_env(6);
        for dtype in DTYPES {
            let a = normals(&mut rng, dtype, rows * columns, 0.0);
            let b = normals(&mut rng, dtype, right_rows * columns, 0.0);
            let scale = -1.25;
            let run = |target: Target| {
                on_hosts(|queue| {
                    let a = Board::new(queue, dtype, [rows, columns], &a, gap)?;
                    let b = Board::new(queue, dtype, [right_rows, columns], &b, gap)?;
                    let fresh = Board::poisoned(queue, dtype, [rows, columns], gap)?;
                    let out = match target {
                        Target::Fresh => &fresh,
                        Target::A => &a,
                        Target::B => &b,
                    };
                    add(queue, &Add { a: a.view(), b: b.view(), scale, out: out.view() })?;
                    out.read(queue)
                })
            };
            let got = run(Target::Fresh);
            let pairs = a.iter().enumerate().map(|(i, a)| (f64::from(*a), f64::from(b[i % b.len()])));
            let exact: Vec<f64> = pairs.map(|(a, b)| a + f64::from(scale) * b).collect();
            // One product and one sum.
            let size = |i: usize| f64::from(a[i].abs()) + 1.25 * f64::from(b[i % b.len()].abs());
            assert_near("add", dtype, &got, &exact, |i| 2.0 * rounding(DType::F32) * size(i));
            assert_eq!(run(Target::A), got, "into a");
            if right_rows == rows {
                assert_eq!(run(Target::B), got, "into b");
            }
        }
    }

    #[test]
    fn ragged_columns() {
        for columns in COLUMNS {
            check([3, columns], 3, false);
        }
    }

    #[test]
    fn one_row_is_added_to_every_row() {
        check([5, 17], 1, false);
        check([5, 1030], 1, true);
        check([1, 17], 1, false);
    }

    #[test]
    fn strided_rows_at_odd_starts() {
        check([5, 1030], 5, true);
    }

    #[test]
    fn rows_enough_for_several_tasks() {
        check([129, 300], 129, false);
    }

    #[test]
    fn bad_arguments_are_refused_with_numbers() {
        let queue = dry();
        let tensor = |dtype, shape: &[usize]| queue.tensor(dtype, shape, "x").unwrap();
        let (a, b, out) =
            (tensor(DType::F32, &[4, 6]), tensor(DType::F32, &[4, 6]), tensor(DType::F32, &[4, 6]));
        let (half, two) = (tensor(DType::Bf16, &[4, 6]), tensor(DType::F32, &[2, 6]));
        let good = Add { a: a.view(), b: b.view(), scale: 1.0, out: out.view() };
        add(&queue, &good).unwrap();
        let cases = [
            (Add { b: two.view(), ..good }, "add: b should be [4, 6], is F32[2, 6]"),
            (Add { b: half.view(), ..good }, "add: b should be F32, is BF16"),
            (Add { out: two.view(), ..good }, "add: out should be [4, 6], is F32[2, 6]"),
            (Add { b: out.view().rows(1, 1).unwrap(), ..good }, "add: b overlaps out, which is written"),
        ];
        for (args, message) in cases {
            assert_refused(add(&queue, &args), message);
        }
    }
}
