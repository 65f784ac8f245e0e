use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Grid, Kernel, View, Workers};
use lighterage_kernels::params::MeanAbsDiffParams;
use lighterage_shape::{DType, Float};

use crate::check::Check;
use crate::launch::{image, launch};
use crate::math::{pairwise, sum};
use crate::rows::{Rows, RowsMut};
use crate::tasks::map;
use crate::{Queue, Result};

/// `out = [mean |a - b|, mean |b|]`.
#[derive(Clone, Copy, Debug)]
pub struct MeanAbsDiff<'a> {
    /// Contiguous.
    pub a: View<'a>,
    /// Contiguous, as many elements.
    pub b: View<'a>,
    /// f32 `[2]`.
    pub out: View<'a>,
}

/// `out = [mean |a - b|, mean |b|]` in f32: TeaCache's distance is their quotient.
///
/// # Errors
/// An [`Error`](crate::Error) that names the tensor if a shape, type, stride, stream or overlap does not suit; nothing is launched then.
pub fn mean_abs_diff<B: Backend>(queue: &Queue<B>, args: &MeanAbsDiff<'_>) -> Result<()> {
    let check = Check::new("mean_abs_diff", queue);
    let a = check.tensor("a", args.a)?.contiguous()?;
    let dtype = a.float()?;
    let b = check.tensor("b", args.b)?.is(dtype, args.a.shape())?.contiguous()?;
    let out = check.tensor("out", args.out)?.is(DType::F32, &[2])?.contiguous()?;
    a.apart(out)?;
    b.apart(out)?;
    let count = args.a.layout().elements();
    check.value("elements", count as f64, "at least 1", count > 0)?;
    let params = MeanAbsDiffParams {
        a: a.address(),
        b: b.address(),
        out: out.address(),
        count: check.count("elements", count)?,
        padding: 0,
    };
    let grid = Grid::elements(count as u64);
    // SAFETY: a and b hold `count` elements and out two (checked), on this stream; out is apart from both.
    unsafe { launch::<B, MeanAbsDiffKernel<f32>, MeanAbsDiffKernel<bf16>>(queue, dtype, grid, &params) }
}

/// Elements whose sum makes one partial sum.
const BLOCK: usize = 4096;

struct MeanAbsDiffKernel<E>(PhantomData<E>);

impl<E: Float> Kernel for MeanAbsDiffKernel<E> {
    type Params = MeanAbsDiffParams;

    const NAME: &'static str = image(E::DTYPE, "mean_abs_diff_f32", "mean_abs_diff_bf16");

    unsafe fn host(p: &MeanAbsDiffParams, workers: &Workers) {
        // SAFETY: the caller's promise.
        let a = unsafe { Rows::<E>::vector(p.a, p.count) };
        // SAFETY: the caller's promise.
        let b = unsafe { Rows::<E>::vector(p.b, p.count) };
        // SAFETY: the caller's promise; only this thread writes it.
        let out = unsafe { RowsMut::<f32>::new(p.out, 1, 2, 2) };
        let count = p.count as usize;
        let partials = map(
            workers,
            count.div_ceil(BLOCK),
            #[inline(always)]
            |block| {
                let start = block * BLOCK;
                let (mut left, mut right) = ([0.0; BLOCK], [0.0; BLOCK]);
                let length = BLOCK.min(count - start);
                let (left, right) = (&mut left[..length], &mut right[..length]);
                a.load(0, start, left);
                b.load(0, start, right);
                for (a, b) in left.iter_mut().zip(&*right) {
                    *a -= b;
                }
                [sum(left, f32::abs), sum(right, f32::abs)]
            },
        );
        let mean = |which: usize| {
            let sums: Vec<f32> = partials.iter().map(|sums| sums[which]).collect();
            pairwise(&sums) / count as f32
        };
        out.store(0, 0, &[mean(0), mean(1)]);
    }

    fn cost(p: &MeanAbsDiffParams) -> Cost {
        let count = f64::from(p.count);
        Cost { flops: 5.0 * count, bytes: 2.0 * count * size_of::<E>() as f64 + 8.0 }
    }
}
