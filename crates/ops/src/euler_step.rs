use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Kernel, Launches, Target, View, Workers};
use lighterage_kernels::elementwise;
use lighterage_kernels::params::EulerStepParams;
use lighterage_shape::Float;

use crate::check::Check;
use crate::launch::{for_bf16, image, launch};
use crate::rows::{PIECE, Rows, RowsMut};
use crate::tasks::for_pieces;
use crate::{Queue, Result};

/// `x += delta * velocity`.
#[derive(Clone, Copy, Debug)]
pub struct EulerStep<'a> {
    /// Contiguous; read and written.
    pub x: View<'a>,
    /// Contiguous, as many elements.
    pub velocity: View<'a>,
    /// Sigma of the next step less sigma of this one.
    pub delta: f32,
}

/// `x += delta * velocity` for every element, computed in f32, rounded once.
///
/// # Errors
/// An [`Error`](crate::Error) that names the tensor if a shape, type, stride, stream or overlap does not suit; nothing is launched then.
pub fn euler_step<B: Backend>(queue: &Queue<B>, args: &EulerStep<'_>) -> Result<()> {
    let check = Check::new("euler_step", queue);
    let x = check.tensor("x", args.x)?.contiguous()?;
    let velocity = check.tensor("velocity", args.velocity)?.contiguous()?;
    let dtype = x.float()?;
    velocity.is(dtype, args.x.shape())?.apart(x)?;
    let count = args.x.layout().elements();
    let params = EulerStepParams {
        x: x.address(),
        velocity: velocity.address(),
        count: check.count("elements", count)?,
        delta: args.delta,
    };
    // SAFETY: both views hold `count` elements (checked), on this stream, and share none.
    unsafe { launch::<B, EulerStepKernel<f32>, EulerStepKernel<bf16>>(queue, dtype, &params) }
}

struct EulerStepKernel<E>(PhantomData<E>);

impl<E: Float> Kernel for EulerStepKernel<E> {
    type Params = EulerStepParams;

    const NAME: &'static str = image(E::DTYPE, "euler_step_f32", "euler_step_bf16");

    unsafe fn host(p: &EulerStepParams, workers: &Workers) {
        // SAFETY: the caller's promise; each task writes its own piece.
        let x = unsafe { RowsMut::<E>::new(p.x, 1, p.count, u64::from(p.count)) };
        // SAFETY: the caller's promise.
        let velocity = unsafe { Rows::<E>::vector(p.velocity, p.count) };
        for_pieces(
            workers,
            1,
            p.count as usize,
            #[inline(always)]
            |row, start, length| {
                let (mut position, mut speed) = ([0.0; PIECE], [0.0; PIECE]);
                let (position, speed) = (&mut position[..length], &mut speed[..length]);
                x.as_rows().load(row, start, position);
                velocity.load(row, start, speed);
                for (x, v) in position.iter_mut().zip(speed) {
                    *x += p.delta * *v;
                }
                x.store(row, start, position);
            },
        );
    }

    fn cost(p: &EulerStepParams) -> Cost {
        let count = f64::from(p.count);
        Cost { flops: 2.0 * count, bytes: 3.0 * count * size_of::<E>() as f64 }
    }

    fn launches(p: &EulerStepParams, target: Target) -> Launches {
        for_bf16::<E>(|| elementwise::euler_step::launches(p, target))
    }
}

#[cfg(test)]
mod tests {
    use lighterage_shape::DType;
    use lighterage_testkit::Rng;

    use super::*;
    use crate::testing::{Board, DTYPES, assert_near, assert_refused, dry, normals, on_hosts, rounding};

    fn check(count: usize) {
        let mut rng = Rng::from_env(10);
        for dtype in DTYPES {
            let x = normals(&mut rng, dtype, count, 0.0);
            let velocity = normals(&mut rng, dtype, count, 0.0);
            let delta = -0.037_f32;
            let got = on_hosts(|queue| {
                let x = Board::new(queue, dtype, [1, count], &x, false)?;
                let velocity = Board::new(queue, dtype, [1, count], &velocity, false)?;
                euler_step(queue, &EulerStep { x: x.view(), velocity: velocity.view(), delta })?;
                x.read(queue)
            });
            let pairs =
                x.iter().zip(&velocity).map(|(x, v)| (f64::from(*x), f64::from(*v) * f64::from(delta)));
            let (exact, sizes): (Vec<f64>, Vec<f64>) = pairs.map(|(x, v)| (x + v, x.abs() + v.abs())).unzip();
            // One product and one sum.
            assert_near("euler_step", dtype, &got, &exact, |i| 2.0 * rounding(DType::F32) * sizes[i]);
        }
    }

    #[test]
    fn any_count() {
        for count in [0, 1, 17, 1024, 1025, 65_536] {
            check(count);
        }
    }

    #[test]
    fn bad_arguments_are_refused_with_numbers() {
        let queue = dry();
        let tensor = |dtype, shape: &[usize]| queue.tensor(dtype, shape, "x").unwrap();
        let (x, velocity, half) =
            (tensor(DType::F32, &[4, 6]), tensor(DType::F32, &[4, 6]), tensor(DType::Bf16, &[4, 6]));
        let good = EulerStep { x: x.view(), velocity: velocity.view(), delta: -0.1 };
        euler_step(&queue, &good).unwrap();
        let three = velocity.view().rows(0, 3).unwrap();
        let cases = [
            (EulerStep { velocity: half.view(), ..good }, "euler_step: velocity should be F32, is BF16"),
            (EulerStep { velocity: three, ..good }, "euler_step: velocity should be [4, 6], is F32[3, 6]"),
            (EulerStep { velocity: x.view(), ..good }, "euler_step: velocity overlaps x, which is written"),
        ];
        for (args, message) in cases {
            assert_refused(euler_step(&queue, &args), message);
        }
    }
}
