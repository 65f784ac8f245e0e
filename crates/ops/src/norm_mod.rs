use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Kernel, Launches, Target, View, Workers};
use lighterage_kernels::norm;
use lighterage_kernels::params::NormModParams;
use lighterage_shape::{DType, Float};

use crate::check::{Check, Operand};
use crate::launch::{for_bf16, image, launch};
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

/// `AdaLN`: `x += gate * y` where an update is given, then `out = LayerNorm(x) * (1 + scale) + shift`, over two row ranges.
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
/// An [`Error`] that names the tensor if a shape, type, stride, stream or overlap does not suit; nothing is launched then.
pub fn norm_mod<B: Backend>(queue: &Queue<B>, args: &NormMod<'_>) -> Result<()> {
    let (dtype, params) = params(queue, args)?;
    // SAFETY: the views hold the rows and vectors that `params` names (checked), on this stream; what is written is apart from what is read.
    unsafe { launch::<B, NormModKernel<f32>, NormModKernel<bf16>>(queue, dtype, &params) }
}

/// As [`norm_mod`], by the images that do a row by one warp and that no GPU has run yet: for whoever measures.
///
/// # Errors
/// As [`norm_mod`], and what [`Stream::launch`](lighterage_device::Stream::launch) says where a GPU has no such image: of another architecture than
/// Hopper, or for rows of another width than 3072.
pub fn norm_mod_by_warps<B: Backend>(queue: &Queue<B>, args: &NormMod<'_>) -> Result<()> {
    let (dtype, params) = params(queue, args)?;
    // SAFETY: as above.
    unsafe { launch::<B, NormModKernel<f32>, WarpKernel>(queue, dtype, &params) }
}

fn params<B: Backend>(queue: &Queue<B>, args: &NormMod<'_>) -> Result<(DType, NormModParams)> {
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
    Ok((dtype, params))
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

    fn launches(p: &NormModParams, target: Target) -> Launches {
        for_bf16::<E>(|| norm::norm_mod::launches(p, target))
    }
}

/// The same by one warp a row.
struct WarpKernel;

impl Kernel for WarpKernel {
    type Params = NormModParams;

    const NAME: &'static str = "norm_mod_warp_bf16";

    unsafe fn host(p: &NormModParams, workers: &Workers) {
        // SAFETY: the caller's promise.
        unsafe { NormModKernel::<bf16>::host(p, workers) }
    }

    fn cost(p: &NormModParams) -> Cost {
        NormModKernel::<bf16>::cost(p)
    }

    fn launches(p: &NormModParams, target: Target) -> Launches {
        norm::norm_mod::launches_by_warps(p, target)
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

#[cfg(test)]
mod tests {
    use lighterage_testkit::Rng;

    use super::*;
    use crate::testing::{
        Board, COLUMNS, DTYPES, assert_near, assert_refused, dry, held, normals, on_hosts, rounding,
    };

    /// So large that it matters beside a variance of 1.
    const EPS: f32 = 0.25;

    #[derive(Clone, Copy, Debug)]
    struct Case {
        shape: [usize; 2],
        split: usize,
        mean: f32,
        update: bool,
        gap: bool,
    }

    fn check(case: Case) {
        let Case { shape: [rows, columns], split, mean, update, gap } = case;
        let mut rng = Rng::from_env(3);
        for dtype in DTYPES {
            let x = normals(&mut rng, dtype, rows * columns, mean);
            let y = normals(&mut rng, dtype, rows * columns, 0.0);
            // Shift, scale and gate of the first range, then of the second.
            let vectors: Vec<Vec<f32>> = (0..6).map(|_| normals(&mut rng, dtype, columns, 0.0)).collect();
            let got = on_hosts(|queue| {
                let x = Board::new(queue, dtype, [rows, columns], &x, gap)?;
                let y = Board::new(queue, dtype, [rows, columns], &y, gap)?;
                let out = Board::poisoned(queue, dtype, [rows, columns], gap)?;
                let v: Vec<_> = vectors
                    .iter()
                    .map(|v| queue.upload_as(dtype, v, &[columns], "v"))
                    .collect::<Result<_>>()?;
                let gates = GatedUpdate { y: y.view(), first_gate: v[2].view(), second_gate: v[5].view() };
                let args = NormMod {
                    x: x.view(),
                    out: out.view(),
                    update: update.then_some(gates),
                    split,
                    first: Modulation { shift: v[0].view(), scale: v[1].view() },
                    second: Modulation { shift: v[3].view(), scale: v[4].view() },
                    eps: EPS,
                };
                norm_mod(queue, &args)?;
                Ok([x.read(queue)?, out.read(queue)?].concat())
            });
            let (updated, normed) = got.split_at(rows * columns);
            let (mut exact_x, mut exact, mut bounds) = (Vec::new(), Vec::new(), Vec::new());
            for row in 0..rows {
                let [shift, scale, gate] =
                    [0, 1, 2].map(|which| &vectors[if row < split { which } else { which + 3 }]);
                let at = row * columns..(row + 1) * columns;
                for (column, (x, y)) in x[at.clone()].iter().zip(&y[at.clone()]).enumerate() {
                    let gate = if update { f64::from(gate[column]) } else { 0.0 };
                    exact_x.push(f64::from(*x) + gate * f64::from(*y));
                }
                // The norm is that of x as it was stored.
                let stored: Vec<f64> = updated[at].iter().map(|x| f64::from(*x)).collect();
                let mean = stored.iter().sum::<f64>() / columns as f64;
                let variance = stored.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / columns as f64;
                let factor = 1.0 / (variance + f64::from(EPS)).sqrt();
                // As in layer_norm's test.
                let sum = (columns as f64 / 64.0 + 10.0) * rounding(DType::F32);
                let moved = sum * stored.iter().map(|x| x.abs()).sum::<f64>() / columns as f64 * factor;
                for (column, x) in stored.iter().enumerate() {
                    let (normal, scale) = ((x - mean) * factor, 1.0 + f64::from(scale[column]));
                    exact.push(normal * scale + f64::from(shift[column]));
                    let size = normal.abs() * (scale.abs() + f64::from(f32::EPSILON));
                    let rest =
                        4.0 * rounding(DType::F32) * (size + normal.abs() + f64::from(shift[column].abs()));
                    bounds.push(moved * scale.abs() + size * (sum + moved * moved) + rest);
                }
            }
            // One product and one sum.
            let one = |i: usize| 2.0 * rounding(DType::F32) * (exact_x[i].abs() + f64::from(x[i].abs()));
            assert_near("norm_mod's x", dtype, updated, &exact_x, one);
            assert_near("norm_mod", dtype, normed, &exact, |i| bounds[i]);
        }
    }

    const PLAIN: Case = Case { shape: [5, 128], split: 2, mean: 0.0, update: true, gap: false };

    #[test]
    fn ragged_columns() {
        for columns in COLUMNS {
            check(Case { shape: [3, columns], split: 1, ..PLAIN });
        }
    }

    #[test]
    fn either_range_may_be_empty() {
        check(Case { split: 0, ..PLAIN });
        check(Case { split: 5, ..PLAIN });
        check(Case { split: 0, shape: [0, 16], ..PLAIN });
    }

    #[test]
    fn without_update_x_is_kept() {
        check(Case { update: false, ..PLAIN });
    }

    #[test]
    fn strided_rows_at_odd_starts() {
        check(Case { gap: true, shape: [5, 127], ..PLAIN });
    }

    #[test]
    fn large_means() {
        check(Case { mean: 40.0, shape: [3, 3072], ..PLAIN });
        check(Case { mean: 400.0, shape: [3, 3072], ..PLAIN });
    }

    #[test]
    fn rows_enough_for_several_tasks() {
        check(Case { shape: [129, 300], split: 17, ..PLAIN });
    }

    #[test]
    fn the_norm_is_that_of_the_stored_x() {
        // In bf16 1 + 2^-9 is stored as 1: all columns are equal then, and nothing is left to normalise.
        assert_eq!(held(DType::Bf16, 1.0 + 2.0_f32.powi(-9)), 1.0);
        let out = on_hosts(|queue| {
            let x = queue.upload_as(DType::Bf16, &[1.0; 4], &[1, 4], "x")?;
            let y = queue.upload_as(DType::Bf16, &[2.0_f32.powi(-9), 0.0, 0.0, 0.0], &[1, 4], "y")?;
            let one = queue.upload_as(DType::Bf16, &[1.0; 4], &[4], "one")?;
            let zero = queue.zeros(DType::Bf16, &[4], "zero")?;
            let out = queue.tensor(DType::Bf16, &[1, 4], "out")?;
            let modulation = Modulation { shift: zero.view(), scale: zero.view() };
            let update = Some(GatedUpdate { y: y.view(), first_gate: one.view(), second_gate: one.view() });
            let (first, second) = (modulation, modulation);
            norm_mod(
                queue,
                &NormMod { x: x.view(), out: out.view(), update, split: 0, first, second, eps: EPS },
            )?;
            Ok(queue.read_f32(out.view())?.unwrap())
        });
        assert_eq!(out, [0.0; 4]);
    }

    #[test]
    fn bad_arguments_are_refused_with_numbers() {
        let queue = dry();
        let tensor = |shape: &[usize]| queue.tensor(DType::F32, shape, "x").unwrap();
        let (x, y, out, v, short) =
            (tensor(&[4, 6]), tensor(&[4, 6]), tensor(&[4, 6]), tensor(&[6]), tensor(&[5]));
        let modulation = Modulation { shift: v.view(), scale: v.view() };
        let gated = GatedUpdate { y: y.view(), first_gate: v.view(), second_gate: v.view() };
        let (first, second) = (modulation, modulation);
        let good =
            NormMod { x: x.view(), out: out.view(), update: Some(gated), split: 2, first, second, eps: EPS };
        norm_mod(&queue, &good).unwrap();
        let row = x.view().rows(0, 1).unwrap().reshape(&[6]).unwrap();
        let cases = [
            (NormMod { split: 5, ..good }, "norm_mod: split is 5, should be at most the rows"),
            (NormMod { out: x.view(), ..good }, "norm_mod: x overlaps out, which is written"),
            (NormMod { x: v.view(), ..good }, "norm_mod: x should have 2 dimensions, is F32[6]"),
            (
                NormMod { first: Modulation { shift: short.view(), ..first }, ..good },
                "norm_mod: first.shift should be [6], is F32[5]",
            ),
            (
                NormMod { second: Modulation { scale: short.view(), ..first }, ..good },
                "norm_mod: second.scale should be [6], is F32[5]",
            ),
            (
                NormMod { update: Some(GatedUpdate { y: v.view(), ..gated }), ..good },
                "norm_mod: y should be [4, 6], is F32[6]",
            ),
            (
                NormMod { update: Some(GatedUpdate { y: x.view(), ..gated }), ..good },
                "norm_mod: y overlaps x, which is written",
            ),
            (
                NormMod { update: Some(GatedUpdate { second_gate: row, ..gated }), ..good },
                "norm_mod: second_gate overlaps x, which is written",
            ),
        ];
        for (args, message) in cases {
            assert_refused(norm_mod(&queue, &args), message);
        }
    }
}
