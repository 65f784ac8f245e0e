use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Kernel, Launches, Target, View, Workers};
use lighterage_kernels::elementwise;
use lighterage_kernels::params::ActivationParams;
use lighterage_shape::Float;

use crate::check::Check;
use crate::launch::{for_bf16, image, launch};
use crate::math;
use crate::rows::{PIECE, Rows, RowsMut};
use crate::tasks::for_pieces;
use crate::{Queue, Result};

/// The activations of the models, as their reference code computes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationKind {
    /// `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.
    GeluTanh,
    /// `0.5 x (1 + erf(x / sqrt(2)))`.
    Gelu,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
    /// `x sigmoid(x)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
}

/// An activation of every element.
#[derive(Clone, Copy, Debug)]
pub struct Activation<'a> {
    /// `[rows, columns]` or `[count]`, dense rows.
    pub x: View<'a>,
    /// Which.
    pub kind: ActivationKind,
    /// As `x`; may be `x`.
    pub out: View<'a>,
}

/// `out = f(x)` for every element, computed in f32, rounded once.
///
/// # Errors
/// An [`Error`](crate::Error) that names the tensor if a shape, type, stride, stream or overlap does not suit; nothing is launched then.
pub fn activation<B: Backend>(queue: &Queue<B>, args: &Activation<'_>) -> Result<()> {
    let check = Check::new("activation", queue);
    let (x, out) = (check.tensor("x", args.x)?, check.tensor("out", args.out)?);
    let dtype = x.float()?;
    out.is(dtype, args.x.shape())?;
    let (from, into) = (x.matrix()?, out.matrix()?);
    x.same_or_apart(out)?;
    let params = ActivationParams {
        x: x.address(),
        out: out.address(),
        x_stride: from.stride,
        out_stride: into.stride,
        rows: check.count("rows", from.rows)?,
        columns: check.count("columns", from.columns)?,
        kind: args.kind.code(),
        padding: 0,
    };
    // SAFETY: both views hold the rows that `params` names (shape and strides checked), on this stream; x is out or apart from it.
    unsafe { launch::<B, ActivationKernel<f32>, ActivationKernel<bf16>>(queue, dtype, &params) }
}

impl ActivationKind {
    /// Its number in the parameters of kernels; 0 is none.
    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::GeluTanh => 1,
            Self::Gelu => 2,
            Self::QuickGelu => 3,
            Self::Silu => 4,
            Self::Relu => 5,
        }
    }
}

/// The activation with that number, of every value: the choice is made once for all of them. Number 0 leaves them as they are.
#[inline(always)]
pub(crate) fn apply(code: u32, values: &mut [f32]) {
    match code {
        1 => each(values, math::gelu_tanh),
        2 => each(values, math::gelu),
        3 => each(values, math::quick_gelu),
        4 => each(values, math::silu),
        5 => each(values, math::relu),
        _ => (),
    }
}

/// A plain loop: the standard library's `for_each` is not always inlined, and then it is compiled for the wrong instructions.
#[inline(always)]
fn each(values: &mut [f32], of: impl Fn(f32) -> f32) {
    for value in values {
        *value = of(*value);
    }
}

struct ActivationKernel<E>(PhantomData<E>);

impl<E: Float> Kernel for ActivationKernel<E> {
    type Params = ActivationParams;

    const NAME: &'static str = image(E::DTYPE, "activation_f32", "activation_bf16");

    unsafe fn host(p: &ActivationParams, workers: &Workers) {
        // SAFETY: the caller's promise.
        let x = unsafe { Rows::<E>::new(p.x, p.rows, p.columns, p.x_stride) };
        // SAFETY: the caller's promise; a task stores the piece that it has loaded.
        let out = unsafe { RowsMut::<E>::new(p.out, p.rows, p.columns, p.out_stride) };
        for_pieces(
            workers,
            p.rows as usize,
            p.columns as usize,
            #[inline(always)]
            |row, start, length| {
                let mut buffer = [0.0; PIECE];
                let values = &mut buffer[..length];
                x.load(row, start, values);
                apply(p.kind, values);
                out.store(row, start, values);
            },
        );
    }

    fn cost(p: &ActivationParams) -> Cost {
        let elements = f64::from(p.rows) * f64::from(p.columns);
        Cost { flops: 20.0 * elements, bytes: 2.0 * elements * size_of::<E>() as f64 }
    }

    fn launches(p: &ActivationParams, target: Target) -> Launches {
        for_bf16::<E>(|| elementwise::activation::launches(p, target))
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

    const KINDS: [ActivationKind; 5] = [
        ActivationKind::GeluTanh,
        ActivationKind::Gelu,
        ActivationKind::QuickGelu,
        ActivationKind::Silu,
        ActivationKind::Relu,
    ];

    /// `erf` by Taylor's series (Abramowitz & Stegun 7.1.5), for `|x|` below 4.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    fn exact(kind: ActivationKind, x: f64) -> f64 {
        match kind {
            ActivationKind::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
            }
            ActivationKind::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
            ActivationKind::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
            ActivationKind::Silu => x / (1.0 + (-x).exp()),
            ActivationKind::Relu => x.max(0.0),
        }
    }

    fn check([rows, columns]: [usize; 2], gap: bool) {
        let mut rng = Rng::from_env(4);
        for (kind, dtype) in KINDS.into_iter().flat_map(|kind| DTYPES.map(|dtype| (kind, dtype))) {
            let x = normals(&mut rng, dtype, rows * columns, 0.0);
            let run = |in_place: bool| {
                on_hosts(|queue| {
                    let x = Board::new(queue, dtype, [rows, columns], &x, gap)?;
                    let fresh = Board::poisoned(queue, dtype, [rows, columns], gap)?;
                    let out = if in_place { &x } else { &fresh };
                    activation(queue, &Activation { x: x.view(), kind, out: out.view() })?;
                    out.read(queue)
                })
            };
            let (got, exact) = (run(false), x.iter().map(|x| exact(kind, f64::from(*x))).collect::<Vec<_>>());
            // `math`'s tests: 8 units and 5 for each unit of the exponent, which is below 2 |x| (1 + x^2 / 20).
            let units = |x: f64| 8.0 + 10.0 * x.abs() * (1.0 + x * x / 20.0);
            let bound = |i: usize| 2.0 * rounding(DType::F32) * units(f64::from(x[i])) * exact[i].abs();
            assert_near(&format!("{kind:?}"), dtype, &got, &exact, bound);
            assert_eq!(run(true), got, "in place");
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
        check([5, 1500], true);
    }

    #[test]
    fn rows_enough_for_several_tasks() {
        check([129, 300], false);
    }

    #[test]
    fn no_rows() {
        check([0, 5], false);
    }

    #[test]
    fn any_rank_without_gaps() {
        let x: Vec<f32> = Rng::new(5).normals(2 * 3 * 4, 1.0);
        let of = |shape: &[usize]| {
            on_hosts(|queue| {
                let x = queue.upload(&x, shape, "x")?;
                activation(queue, &Activation { x: x.view(), kind: ActivationKind::Silu, out: x.view() })?;
                Ok(queue.read_f32(x.view())?.unwrap())
            })
        };
        assert_eq!(of(&[2, 3, 4]), of(&[24]));
    }

    #[test]
    fn bad_arguments_are_refused_with_numbers() {
        let queue = dry();
        let tensor = |dtype, shape: &[usize]| queue.tensor(dtype, shape, "x").unwrap();
        let (x, half) = (tensor(DType::F32, &[4, 6]), tensor(DType::Bf16, &[4, 6]));
        let (ids, cube) = (tensor(DType::I32, &[4, 6]), tensor(DType::F32, &[2, 4, 6]));
        let good = Activation { x: x.view(), kind: ActivationKind::Silu, out: x.view() };
        activation(&queue, &good).unwrap();
        let gaps = cube.view().narrow(1, 0, 2).unwrap();
        let cases = [
            (Activation { x: ids.view(), ..good }, "activation: x should be BF16, is I32"),
            (Activation { out: half.view(), ..good }, "activation: out should be F32, is BF16"),
            (Activation { out: cube.view(), ..good }, "activation: out should be [4, 6], is F32[2, 4, 6]"),
            (
                Activation { x: gaps, out: gaps, ..good },
                "activation: x should be contiguous, is F32[2, 2, 6]/[24, 6, 1]",
            ),
        ];
        for (args, message) in cases {
            assert_refused(activation(&queue, &args), message);
        }
    }
}
