use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Kernel, Launches, Target, View, Workers};
use lighterage_kernels::elementwise;
use lighterage_kernels::params::MeanAbsDiffParams;
use lighterage_shape::{DType, Float};

use crate::check::Check;
use crate::launch::{for_bf16, image, launch};
use crate::math::{pairwise, round, sum};
use crate::rows::{Rows, RowsMut};
use crate::tasks::map;
use crate::{Queue, Result};

/// `out = round(round(mean |a - b|) / round(mean |b|))`, where `round` is to the type of `a` and `b`.
#[derive(Clone, Copy, Debug)]
pub struct MeanAbsDiff<'a> {
    /// Contiguous.
    pub a: View<'a>,
    /// Contiguous, as many elements.
    pub b: View<'a>,
    /// f32 `[1]`.
    pub out: View<'a>,
    /// f32 `[mean_abs_diff_workspace(elements)]` for partial sums; overlaps nothing, undefined afterwards.
    pub workspace: View<'a>,
}

/// Numbers that [`MeanAbsDiff::workspace`] holds for so many elements.
#[must_use]
pub const fn mean_abs_diff_workspace(elements: usize) -> usize {
    elementwise::mean_abs_diff::workspace(elements)
}

/// `out = round(round(mean |a - b|) / round(mean |b|))`: TeaCache's distance (Liu et al. 2024), one number to read back.
///
/// Sums and division are in f32; `round` is to the type of `a` and `b`, as PyTorch's `mean` and `/` give what they are given. Without a size (`b` all zeros) it
/// is infinite, or not a number where `a` is zero too.
///
/// # Errors
/// An [`Error`](crate::Error) that names the tensor if a shape, type, stride, stream or overlap does not suit; nothing is launched then.
pub fn mean_abs_diff<B: Backend>(queue: &Queue<B>, args: &MeanAbsDiff<'_>) -> Result<()> {
    let check = Check::new("mean_abs_diff", queue);
    let a = check.tensor("a", args.a)?.contiguous()?;
    let dtype = a.float()?;
    let b = check.tensor("b", args.b)?.is(dtype, args.a.shape())?.contiguous()?;
    let out = check.tensor("out", args.out)?.is(DType::F32, &[1])?.contiguous()?;
    a.apart(out)?;
    b.apart(out)?;
    let count = args.a.layout().elements();
    check.value("elements", count as f64, "at least 1", count > 0)?;
    let numbers = mean_abs_diff_workspace(count);
    let workspace = check.tensor("workspace", args.workspace)?.is(DType::F32, &[numbers])?.contiguous()?;
    for other in [a, b, out] {
        other.apart(workspace)?;
    }
    let params = MeanAbsDiffParams {
        a: a.address(),
        b: b.address(),
        out: out.address(),
        workspace: workspace.address(),
        count: check.count("elements", count)?,
        padding: 0,
    };
    // SAFETY: a and b hold `count` elements and out one (checked), on this stream; out and the workspace are apart
    // from both and from each other.
    unsafe { launch::<B, MeanAbsDiffKernel<f32>, MeanAbsDiffKernel<bf16>>(queue, dtype, &params) }
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
        let out = unsafe { RowsMut::<f32>::new(p.out, 1, 1, 1) };
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
            round::<E>(pairwise(&sums) / count as f32)
        };
        out.store(0, 0, &[round::<E>(mean(0) / mean(1))]);
    }

    fn cost(p: &MeanAbsDiffParams) -> Cost {
        let count = f64::from(p.count);
        Cost { flops: 5.0 * count, bytes: 2.0 * count * size_of::<E>() as f64 + 4.0 }
    }

    fn launches(p: &MeanAbsDiffParams, target: Target) -> Launches {
        for_bf16::<E>(|| elementwise::mean_abs_diff::launches(p, target))
    }
}

#[cfg(test)]
mod tests {
    use lighterage_testkit::Rng;

    use super::*;
    use crate::testing::{Board, DTYPES, assert_refused, dry, normals, on_hosts, rounding};

    fn check(count: usize, mean: f32) {
        let mut rng = Rng::from_env(13);
        for dtype in DTYPES {
            let a = normals(&mut rng, dtype, count, mean);
            let b = normals(&mut rng, dtype, count, mean);
            let got = on_hosts(|queue| {
                let a = Board::new(queue, dtype, [1, count], &a, false)?;
                let b = Board::new(queue, dtype, [1, count], &b, false)?;
                let out = Board::poisoned(queue, DType::F32, [1, 1], false)?;
                let workspace = queue.tensor(DType::F32, &[mean_abs_diff_workspace(count)], "workspace")?;
                let (a, b, workspace) = (a.view(), b.view(), workspace.view());
                mean_abs_diff(queue, &MeanAbsDiff { a, b, out: out.shaped(&[1]), workspace })?;
                out.read(queue)
            });
            let mean = |of: &dyn Fn(f64, f64) -> f64| {
                a.iter().zip(&b).map(|(a, b)| of(f64::from(*a), f64::from(*b))).sum::<f64>() / count as f64
            };
            // Every term is positive: a difference, 64 values a lane, and at most 6 + 20 halvings, each one rounding of the whole, in both means; then three roundings
            // to the type. A hundredth more for their products.
            let bound = 1.01 * (2.0 * 92.0 * rounding(DType::F32) + 3.0 * rounding(dtype));
            let exact = mean(&|a, b| (a - b).abs()) / mean(&|_, b| b.abs());
            let error = (f64::from(got[0]) - exact).abs();
            assert!(error <= bound * exact, "{count} values of {dtype}: {}, exactly {exact}", got[0]);
            if dtype == DType::Bf16 {
                assert_eq!(bf16::from_f32(got[0]).to_f32(), got[0], "rounded to the type of its inputs");
            }
        }
    }

    #[test]
    fn any_count() {
        for count in [1, 17, 4095, 4096, 4097, 100_000] {
            check(count, 0.0);
        }
    }

    #[test]
    fn large_means() {
        check(100_000, 400.0);
    }

    #[test]
    fn bad_arguments_are_refused_with_numbers() {
        let queue = dry();
        let tensor = |dtype, shape: &[usize]| queue.tensor(dtype, shape, "x").unwrap();
        let (a, b, out) =
            (tensor(DType::Bf16, &[4, 6]), tensor(DType::Bf16, &[4, 6]), tensor(DType::F32, &[1]));
        let (pair, half) = (tensor(DType::F32, &[2]), tensor(DType::Bf16, &[1]));
        let space = tensor(DType::F32, &[2]);
        let good = MeanAbsDiff { a: a.view(), b: b.view(), out: out.view(), workspace: space.view() };
        mean_abs_diff(&queue, &good).unwrap();
        let none = a.view().rows(0, 0).unwrap();
        let cases = [
            (MeanAbsDiff { out: pair.view(), ..good }, "mean_abs_diff: out should be [1], is F32[2]"),
            (MeanAbsDiff { out: half.view(), ..good }, "mean_abs_diff: out should be F32, is BF16"),
            (
                MeanAbsDiff { workspace: out.view(), ..good },
                "mean_abs_diff: workspace should be [2], is F32[1]",
            ),
            (
                MeanAbsDiff { out: space.view().rows(0, 1).unwrap(), ..good },
                "mean_abs_diff: out overlaps workspace, which is written",
            ),
            (MeanAbsDiff { b: half.view(), ..good }, "mean_abs_diff: b should be [4, 6], is BF16[1]"),
            (MeanAbsDiff { a: none, b: none, ..good }, "mean_abs_diff: elements is 0, should be at least 1"),
        ];
        for (args, message) in cases {
            assert_refused(mean_abs_diff(&queue, &args), message);
        }
    }
}
