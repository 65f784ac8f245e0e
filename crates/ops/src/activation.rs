use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Grid, Kernel, View, Workers};
use lighterage_kernels::params::ActivationParams;
use lighterage_shape::Float;

use crate::check::Check;
use crate::launch::{image, launch};
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
    let grid = Grid::elements((from.rows * from.columns) as u64);
    // SAFETY: both views hold the rows that `params` names (shape and strides checked), on this stream; x is out or apart from it.
    unsafe { launch::<B, ActivationKernel<f32>, ActivationKernel<bf16>>(queue, dtype, grid, &params) }
}

impl ActivationKind {
    /// Its number in the parameters of kernels; 0 is none.
    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::GeluTanh => 1,
            Self::Gelu => 2,
            Self::QuickGelu => 3,
            Self::Silu => 4,
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
}
