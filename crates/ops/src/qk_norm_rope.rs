use std::marker::PhantomData;

use half::bf16;
use lighterage_device::{Backend, Cost, Grid, Kernel, View, Workers};
use lighterage_kernels::params::QkNormRopeParams;
use lighterage_shape::{DType, Float};

use crate::check::{Check, Operand};
use crate::launch::{image, launch};
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
    /// `[rows, heads, head_dim]`, dense along head_dim.
    pub q: View<'a>,
    /// `[rows, heads, head_dim]`, dense along head_dim.
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
    let grid = Grid::warps(params.rows);
    // SAFETY: the views have the extents and strides that `params` names (checked), on this stream; q and k are apart from all else.
    unsafe { launch::<B, QkNormRopeKernel<f32>, QkNormRopeKernel<bf16>>(queue, dtype, grid, &params) }
}

pub(crate) struct QkNormRopeKernel<E>(PhantomData<E>);

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
