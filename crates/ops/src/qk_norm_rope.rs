use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Kernel, Launches, Target, View, Workers};
use lighterage_kernels::params::QkNormRopeParams;
use lighterage_kernels::rope;
use lighterage_shape::{DType, Float};

use crate::check::{Check, Operand};
use crate::launch::{for_bf16, image, launch};
use crate::math::{inverse_rms, round};
use crate::rows::{Rows, RowsMut};
use crate::tasks::for_rows;
use crate::{Error, Queue, Result};

/// Norm weights of q and k, `[head_dim]` each.
#[derive(Clone, Copy, Debug)]
pub struct QkWeights<'a> {
    /// Of q.
    pub q: View<'a>,
    /// Of k.
    pub k: View<'a>,
}

/// RMSNorm of each head of q and k, then rotation of adjacent pairs, in place.
#[derive(Clone, Copy, Debug)]
pub struct QkNormRope<'a> {
    /// `[rows, heads, head_dim]`, dense along the last dimension.
    pub q: View<'a>,
    /// `[rows, heads, head_dim]`, dense along the last dimension.
    pub k: View<'a>,
    /// First row of the second range; 0: all rows are of the second.
    pub split: usize,
    /// For rows below `split` (text).
    pub first: QkWeights<'a>,
    /// For rows from `split` on (image).
    pub second: QkWeights<'a>,
    /// f32 `[rows, head_dim / 2]`, contiguous.
    pub cos: View<'a>,
    /// f32 `[rows, head_dim / 2]`, contiguous.
    pub sin: View<'a>,
    /// Added to the mean square.
    pub eps: f32,
}

/// RMSNorm of each head of q and k (rounded to the element type before the weight), then rotation of adjacent pairs in f32, in place.
///
/// # Errors
/// An [`Error`](crate::Error) that names the tensor if a shape, type, stride, stream or overlap does not suit; nothing is launched then.
pub fn qk_norm_rope<B: Backend>(queue: &Queue<B>, args: &QkNormRope<'_>) -> Result<()> {
    let check = Check::new("qk_norm_rope", queue);
    let (q, k) = (check.tensor("q", args.q)?.dense_rows()?, check.tensor("k", args.k)?.dense_rows()?);
    let [rows, heads, head_dim] = q.extents()?;
    let dtype = q.float()?;
    k.is(dtype, &[rows, heads, head_dim])?.apart(q)?;
    check.value("head_dim", head_dim as f64, "even", head_dim.is_multiple_of(2))?;
    check.value("split", args.split as f64, "at most the rows", args.split <= rows)?;
    let input = |operand: Operand<'_>| Ok::<_, Error>(operand.contiguous()?.apart(q)?.apart(k)?.address());
    let weight = |name, view| input(check.tensor(name, view)?.is(dtype, &[head_dim])?);
    let angles = |name, view| input(check.tensor(name, view)?.is(DType::F32, &[rows, head_dim / 2])?);
    let params = QkNormRopeParams {
        q: q.address(),
        k: k.address(),
        first_q_weight: weight("first.q", args.first.q)?,
        first_k_weight: weight("first.k", args.first.k)?,
        second_q_weight: weight("second.q", args.second.q)?,
        second_k_weight: weight("second.k", args.second.k)?,
        cos: angles("cos", args.cos)?,
        sin: angles("sin", args.sin)?,
        q_row_stride: q.stride(0),
        q_head_stride: q.stride(1),
        k_row_stride: k.stride(0),
        k_head_stride: k.stride(1),
        rows: check.count("rows", rows)?,
        heads: check.count("heads", heads)?,
        head_dim: check.count("head_dim", head_dim)?,
        split: check.count("split", args.split)?,
        eps: args.eps,
        padding: 0,
    };
    // SAFETY: the views have the extents and strides that `params` names (checked), on this stream; q and k are apart from all else.
    unsafe { launch::<B, QkNormRopeKernel<f32>, QkNormRopeKernel<bf16>>(queue, dtype, &params) }
}

struct QkNormRopeKernel<E>(PhantomData<E>);

impl<E: Float> Kernel for QkNormRopeKernel<E> {
    type Params = QkNormRopeParams;

    const NAME: &'static str = image(E::DTYPE, "qk_norm_rope_f32", "qk_norm_rope_bf16");

    unsafe fn host(p: &QkNormRopeParams, workers: &Workers) {
        let half = p.head_dim / 2;
        // SAFETY: the caller's promise.
        let cos = unsafe { Rows::<f32>::new(p.cos, p.rows, half, u64::from(half)) };
        // SAFETY: the caller's promise.
        let sin = unsafe { Rows::<f32>::new(p.sin, p.rows, half, u64::from(half)) };
        // SAFETY: the caller's promise, so for all four.
        let weights = [p.first_q_weight, p.first_k_weight, p.second_q_weight, p.second_k_weight]
            .map(|address| unsafe { Rows::<E>::vector(address, p.head_dim) }.to_vec(0));
        let tensors = [(p.q, p.q_row_stride, p.q_head_stride), (p.k, p.k_row_stride, p.k_head_stride)];
        for_rows(
            workers,
            p.rows as usize,
            2 * (p.heads * p.head_dim) as usize,
            #[inline(always)]
            |range| {
                let mut scratch = Scratch::new(p.head_dim as usize);
                for row in range {
                    scratch.turn(&cos, &sin, row);
                    let first = if row < p.split as usize { 0 } else { 2 };
                    for (index, (address, row_stride, head_stride)) in tensors.into_iter().enumerate() {
                        let start = address + row as u64 * row_stride * size_of::<E>() as u64;
                        // SAFETY: the heads of one row, which only this task uses; the caller's promise.
                        let heads = unsafe { RowsMut::<E>::new(start, p.heads, p.head_dim, head_stride) };
                        for head in 0..p.heads as usize {
                            scratch.rotate(&heads, head, &weights[first + index], p.eps);
                        }
                    }
                }
            },
        );
    }

    fn cost(p: &QkNormRopeParams) -> Cost {
        let (rows, head_dim) = (f64::from(p.rows), f64::from(p.head_dim));
        let (elements, ranges) = (
            2.0 * rows * f64::from(p.heads) * head_dim,
            if p.split == 0 || p.split == p.rows { 1.0 } else { 2.0 },
        );
        let bytes =
            (2.0 * elements + ranges * 2.0 * head_dim) * size_of::<E>() as f64 + 4.0 * rows * head_dim;
        Cost { flops: 7.0 * elements, bytes }
    }

    fn launches(p: &QkNormRopeParams, target: Target) -> Launches {
        for_bf16::<E>(|| rope::qk_norm_rope::launches(p, target))
    }
}

/// What one task needs for the heads of one row.
struct Scratch {
    head: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Scratch {
    fn new(head_dim: usize) -> Self {
        Self { head: vec![0.0; head_dim], cos: vec![0.0; head_dim / 2], sin: vec![0.0; head_dim / 2] }
    }

    /// Takes up the angles of a row.
    fn turn(&mut self, cos: &Rows<'_, f32>, sin: &Rows<'_, f32>, row: usize) {
        cos.load(row, 0, &mut self.cos);
        sin.load(row, 0, &mut self.sin);
    }

    #[inline(always)]
    fn rotate<E: Float>(&mut self, heads: &RowsMut<'_, E>, head: usize, weight: &[f32], eps: f32) {
        heads.as_rows().load(head, 0, &mut self.head);
        let inverse = inverse_rms(&self.head, eps);
        for (value, weight) in self.head.iter_mut().zip(weight) {
            *value = round::<E>(*value * inverse) * weight;
        }
        let (pairs, _) = self.head.as_chunks_mut::<2>();
        for (([a, b], cos), sin) in pairs.iter_mut().zip(&self.cos).zip(&self.sin) {
            (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
        }
        heads.store(head, 0, &self.head);
    }
}

#[cfg(test)]
mod tests {
    use lighterage_testkit::Rng;

    use super::*;
    use crate::testing::{Board, DTYPES, assert_near, assert_refused, dry, normals, on_hosts, rounding};

    /// So large that it matters beside a variance of 1.
    const EPS: f32 = 0.25;

    /// q, k and v lie side by side in one projection's output, as in the models, so that v is among the guards.
    fn check(rows: usize, [heads, head_dim]: [usize; 2], split: usize) {
        let mut rng = Rng::from_env(17);
        let width = heads * head_dim;
        for dtype in DTYPES {
            let qkv = normals(&mut rng, dtype, rows * 3 * width, 0.0);
            let weights: Vec<Vec<f32>> = (0..4).map(|_| normals(&mut rng, dtype, head_dim, 1.0)).collect();
            let angles: Vec<f32> = (0..rows * head_dim / 2).map(|_| rng.normal() * 3.0).collect();
            let cos: Vec<f32> = angles.iter().map(|angle| angle.cos()).collect();
            let sin: Vec<f32> = angles.iter().map(|angle| angle.sin()).collect();
            let got = on_hosts(|queue| {
                let qkv = Board::new(queue, dtype, [rows, 3 * width], &qkv, true)?;
                let w: Vec<_> = weights
                    .iter()
                    .map(|w| queue.upload_as(dtype, w, &[head_dim], "w"))
                    .collect::<Result<_>>()?;
                let cos = queue.upload(&cos, &[rows, head_dim / 2], "cos")?;
                let sin = queue.upload(&sin, &[rows, head_dim / 2], "sin")?;
                let part = |index: usize| qkv.view().narrow(1, index * width, width)?.split(1, heads);
                let first = QkWeights { q: w[0].view(), k: w[1].view() };
                let second = QkWeights { q: w[2].view(), k: w[3].view() };
                let (q, k, cos, sin) = (part(0)?, part(1)?, cos.view(), sin.view());
                qk_norm_rope(queue, &QkNormRope { q, k, split, first, second, cos, sin, eps: EPS })?;
                qkv.read(queue)
            });
            let (mut exact, mut bounds) =
                (qkv.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), vec![0.0; qkv.len()]);
            // A sum of head_dim / 64 values a lane and six halvings, its root, a product with the inverse, one with the weight,
            // two and a sum in the rotation; in bf16 the value is rounded before the weight.
            let before = if dtype == DType::F32 { 0.0 } else { rounding(dtype) };
            let relative = before + (head_dim as f64 / 64.0 + 14.0) * rounding(DType::F32);
            for (row, part, head) in
                (0..rows).flat_map(|r| (0..2).flat_map(move |p| (0..heads).map(move |h| (r, p, h))))
            {
                let start = row * 3 * width + part * width + head * head_dim;
                let values: Vec<f64> = exact[start..start + head_dim].to_vec();
                let square = values.iter().map(|v| v * v).sum::<f64>() / head_dim as f64;
                let weight = &weights[part + if row < split { 0 } else { 2 }];
                let normal = |i: usize| values[i] / (square + f64::from(EPS)).sqrt() * f64::from(weight[i]);
                for pair in 0..head_dim / 2 {
                    let at = row * head_dim / 2 + pair;
                    let (a, b) = (normal(2 * pair), normal(2 * pair + 1));
                    let (c, s) = (f64::from(cos[at]), f64::from(sin[at]));
                    exact[start + 2 * pair] = a * c - b * s;
                    exact[start + 2 * pair + 1] = a * s + b * c;
                    bounds[start + 2 * pair] = relative * ((a * c).abs() + (b * s).abs());
                    bounds[start + 2 * pair + 1] = relative * ((a * s).abs() + (b * c).abs());
                }
            }
            assert_near("qk_norm_rope", dtype, &got, &exact, |i| bounds[i]);
        }
    }

    #[test]
    fn head_sizes_of_the_models() {
        for head_dim in [2, 16, 32, 64, 128, 130] {
            check(5, [3, head_dim], 2);
        }
    }

    #[test]
    fn either_range_may_be_empty() {
        check(5, [2, 16], 0);
        check(5, [2, 16], 5);
        check(0, [2, 16], 0);
    }

    #[test]
    fn rows_enough_for_several_tasks() {
        check(129, [8, 128], 17);
    }

    #[test]
    fn the_value_is_rounded_before_the_weight() {
        // As in rms_norm's test, turned by nothing.
        let got = on_hosts(|queue| {
            let values = [3.0, 4.0, 0.0, 0.0];
            let q = queue.upload_as(DType::Bf16, &values, &[1, 1, 4], "q")?;
            let k = queue.upload_as(DType::Bf16, &values, &[1, 1, 4], "k")?;
            let w = queue.upload_as(DType::Bf16, &[1.5; 4], &[4], "w")?;
            let (cos, sin) =
                (queue.upload(&[1.0_f32; 2], &[1, 2], "cos")?, queue.zeros(DType::F32, &[1, 2], "sin")?);
            let weights = QkWeights { q: w.view(), k: w.view() };
            let (first, second, cos, sin) = (weights, weights, cos.view(), sin.view());
            let (q_view, k_view) = (q.view(), k.view());
            qk_norm_rope(
                queue,
                &QkNormRope { q: q_view, k: k_view, split: 0, first, second, cos, sin, eps: 0.0 },
            )?;
            Ok([queue.read_f32(q.view())?.unwrap(), queue.read_f32(k.view())?.unwrap()].concat())
        });
        assert_eq!(got, [1.804_687_5, 2.406_25, 0.0, 0.0].repeat(2));
    }

    #[test]
    fn bad_arguments_are_refused_with_numbers() {
        let queue = dry();
        let tensor = |dtype, shape: &[usize]| queue.tensor(dtype, shape, "x").unwrap();
        let half = |shape: &[usize]| tensor(DType::Bf16, shape);
        let (q, k, w, short) = (half(&[4, 2, 6]), half(&[4, 2, 6]), half(&[6]), half(&[5]));
        let (cos, sin) = (tensor(DType::F32, &[4, 3]), tensor(DType::F32, &[4, 3]));
        let (odd, odd_too, three, half_cos) =
            (half(&[4, 2, 5]), half(&[4, 2, 5]), half(&[4, 3, 6]), half(&[4, 3]));
        let weights = QkWeights { q: w.view(), k: w.view() };
        let (first, second, cos, sin) = (weights, weights, cos.view(), sin.view());
        let good = QkNormRope { q: q.view(), k: k.view(), split: 1, first, second, cos, sin, eps: EPS };
        qk_norm_rope(&queue, &good).unwrap();
        let cases = [
            (QkNormRope { split: 5, ..good }, "qk_norm_rope: split is 5, should be at most the rows"),
            (QkNormRope { k: three.view(), ..good }, "qk_norm_rope: k should be [4, 2, 6], is BF16[4, 3, 6]"),
            (QkNormRope { k: q.view(), ..good }, "qk_norm_rope: k overlaps q, which is written"),
            (
                QkNormRope { q: odd.view(), k: odd_too.view(), ..good },
                "qk_norm_rope: head_dim is 5, should be even",
            ),
            (QkNormRope { cos: half_cos.view(), ..good }, "qk_norm_rope: cos should be F32, is BF16"),
            (
                QkNormRope { sin: sin.rows(0, 3).unwrap(), ..good },
                "qk_norm_rope: sin should be [4, 3], is F32[3, 3]",
            ),
            (
                QkNormRope { second: QkWeights { k: short.view(), ..weights }, ..good },
                "qk_norm_rope: second.k should be [6], is BF16[5]",
            ),
        ];
        for (args, message) in cases {
            assert_refused(qk_norm_rope(&queue, &args), message);
        }
    }
}
