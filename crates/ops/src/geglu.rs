use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Kernel, Launches, Target, View, Workers};
use lighterage_kernels::elementwise;
use lighterage_kernels::params::GegluParams;
use lighterage_shape::Float;

use crate::check::Check;
use crate::launch::{for_bf16, image, launch};
use crate::math;
use crate::rows::{PIECE, Rows, RowsMut};
use crate::tasks::for_pieces;
use crate::{Queue, Result};

/// `out = gelu_tanh(gate half) * linear half` of one fused projection.
#[derive(Clone, Copy, Debug)]
pub struct Geglu<'a> {
    /// `[rows, 2 columns]`, dense rows; the gated half first.
    pub x: View<'a>,
    /// `[rows, columns]`, dense rows.
    pub out: View<'a>,
}

/// `out[r, c] = gelu_tanh(x[r, c]) * x[r, columns + c]`, computed in f32, rounded once.
///
/// # Errors
/// An [`Error`](crate::Error) that names the tensor if a shape, type, stride, stream or overlap does not suit; nothing is launched then.
pub fn geglu<B: Backend>(queue: &Queue<B>, args: &Geglu<'_>) -> Result<()> {
    let check = Check::new("geglu", queue);
    let out = check.tensor("out", args.out)?.dense_rows()?;
    let [rows, columns] = out.extents()?;
    let dtype = out.float()?;
    let x = check.tensor("x", args.x)?.is(dtype, &[rows, 2 * columns])?.dense_rows()?;
    x.apart(out)?;
    let params = GegluParams {
        x: x.address(),
        out: out.address(),
        x_stride: x.stride(0),
        out_stride: out.stride(0),
        rows: check.count("rows", rows)?,
        columns: check.count("columns", columns)?,
    };
    check.count("columns of x", 2 * columns)?;
    // SAFETY: the views hold the rows that `params` names (shapes and strides checked), on this stream, and share no element.
    unsafe { launch::<B, GegluKernel<f32>, GegluKernel<bf16>>(queue, dtype, &params) }
}

struct GegluKernel<E>(PhantomData<E>);

impl<E: Float> Kernel for GegluKernel<E> {
    type Params = GegluParams;

    const NAME: &'static str = image(E::DTYPE, "geglu_f32", "geglu_bf16");

    unsafe fn host(p: &GegluParams, workers: &Workers) {
        // SAFETY: the caller's promise.
        let x = unsafe { Rows::<E>::new(p.x, p.rows, 2 * p.columns, p.x_stride) };
        // SAFETY: the caller's promise; each task writes its own piece.
        let out = unsafe { RowsMut::<E>::new(p.out, p.rows, p.columns, p.out_stride) };
        let columns = p.columns as usize;
        for_pieces(
            workers,
            p.rows as usize,
            columns,
            #[inline(always)]
            |row, start, length| {
                let (mut gated, mut linear) = ([0.0; PIECE], [0.0; PIECE]);
                let (gated, linear) = (&mut gated[..length], &mut linear[..length]);
                x.load(row, start, gated);
                x.load(row, columns + start, linear);
                for (g, l) in gated.iter_mut().zip(linear) {
                    *g = math::gelu_tanh(*g) * *l;
                }
                out.store(row, start, gated);
            },
        );
    }

    fn cost(p: &GegluParams) -> Cost {
        let elements = f64::from(p.rows) * f64::from(p.columns);
        Cost { flops: 21.0 * elements, bytes: 3.0 * elements * size_of::<E>() as f64 }
    }

    fn launches(p: &GegluParams, target: Target) -> Launches {
        for_bf16::<E>(|| elementwise::geglu::launches(p, target))
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

    fn gelu(x: f64) -> f64 {
        0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
    }

    fn check([rows, columns]: [usize; 2], gap: bool) {
        let mut rng = Rng::from_env(7);
        for dtype in DTYPES {
            let x = normals(&mut rng, dtype, rows * 2 * columns, 0.0);
            let got = on_hosts(|queue| {
                let x = Board::new(queue, dtype, [rows, 2 * columns], &x, gap)?;
                let out = Board::poisoned(queue, dtype, [rows, columns], gap)?;
                geglu(queue, &Geglu { x: x.view(), out: out.view() })?;
                x.read(queue)?;
                out.read(queue)
            });
            let halves = x.chunks(2 * columns.max(1)).map(|row| row.split_at(columns));
            let pairs: Vec<(f64, f64)> = halves
                .flat_map(|(g, l)| g.iter().zip(l).map(|(g, l)| (f64::from(*g), f64::from(*l))))
                .collect();
            let exact: Vec<f64> = pairs.iter().map(|(gated, linear)| gelu(*gated) * linear).collect();
            // As in activation's test, and a product.
            let units = |x: f64| 9.0 + 10.0 * x.abs() * (1.0 + x * x / 20.0);
            let bound = |i: usize| 2.0 * rounding(DType::F32) * units(pairs[i].0) * exact[i].abs();
            assert_near("geglu", dtype, &got, &exact, bound);
        }
    }

    #[test]
    fn ragged_columns() {
        for columns in COLUMNS {
            check([2, columns], false);
        }
    }

    #[test]
    fn strided_rows_at_odd_starts() {
        check([5, 1030], true);
    }

    #[test]
    fn rows_enough_for_several_tasks() {
        check([129, 300], false);
    }

    #[test]
    fn no_rows() {
        check([0, 3], false);
    }

    #[test]
    fn bad_arguments_are_refused_with_numbers() {
        let queue = dry();
        let tensor = |shape: &[usize]| queue.tensor(DType::F32, shape, "x").unwrap();
        let (x, out) = (tensor(&[4, 12]), tensor(&[4, 6]));
        let good = Geglu { x: x.view(), out: out.view() };
        geglu(&queue, &good).unwrap();
        let cases = [
            (Geglu { x: out.view(), ..good }, "geglu: x should be [4, 12], is F32[4, 6]"),
            (
                Geglu { out: x.view().narrow(1, 0, 6).unwrap(), ..good },
                "geglu: x overlaps out, which is written",
            ),
            (
                Geglu { out: x.view().reshape(&[48]).unwrap(), ..good },
                "geglu: out should have 2 dimensions, is F32[48]",
            ),
        ];
        for (args, message) in cases {
            assert_refused(geglu(&queue, &args), message);
        }
    }
}
