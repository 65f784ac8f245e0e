mod buckets;
mod host;
#[cfg(test)]
mod tests;

use half::bf16;
use lighterage_allocator::Buffer;
use lighterage_device::{Backend, View};
use lighterage_kernels::attention::{HEADS_MAX, PLAIN_HEAD_DIM_MAX, workspace_bytes};
use lighterage_kernels::params::AttentionParams;
use lighterage_shape::DType;

use crate::check::{Check, Operand};
use crate::{Queue, Result};
use host::AttentionKernel;

/// What is added to the scores, or left out.
#[derive(Clone, Copy, Debug)]
pub enum Mask<'a> {
    /// Every query sees every key.
    None,
    /// A query sees keys up to its own position; as many keys as queries.
    Causal,
    /// T5's learned bias by bucketed distance, bidirectional.
    RelativeBuckets {
        /// `[buckets, heads]`, contiguous, of the element type of q.
        table: View<'a>,
        /// Distances from here on share the last bucket.
        max_distance: usize,
    },
}

/// `softmax(scale q k^T + mask) v` for each head; strides are free but for the last dimension, which is dense.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// `[queries, heads, head_dim]`.
    pub q: View<'a>,
    /// `[keys, heads, head_dim]`.
    pub k: View<'a>,
    /// `[keys, heads, head_dim]`.
    pub v: View<'a>,
    /// `[queries, heads, head_dim]`; overlaps nothing.
    pub out: View<'a>,
    /// Factor on the scores.
    pub scale: f32,
    /// What is added to the scores or left out.
    pub mask: Mask<'a>,
}

const OP: &str = "attention";

/// Launches an [`Attention`].
///
/// Scores, softmax and sums are `f32`; with `bf16` tensors the probabilities are rounded to `bf16` before they meet the values.
/// No `[queries, keys]` matrix is stored: keys are taken in blocks and the softmax is carried along (Milakov and Gimelshein 2018).
///
/// Heads of 128 bf16 numbers without a mask, and more than 768 keys, take up to 17 MB of the queue's pool until the call returns: a kernel may cut its last tiles
/// along the keys and keep their sums there.
///
/// # Errors
/// [`Error`](crate::Error) with the numbers if a tensor's shape, element type, strides or place does not suit, if there are no keys, more than 65535 heads
/// or heads wider than 2888 (what a grid and a warp's shared memory hold, on every device alike),
/// if the scale is not finite, if a causal mask meets unequal numbers of queries and keys, if the number of buckets is below 4
/// or the largest distance is not above a quarter of it, if a tensor belongs to another stream, if there is no memory, or if the launch fails.
pub fn attention<B: Backend>(queue: &Queue<B>, args: &Attention<'_>) -> Result<()> {
    let params = args.params(Check::new(OP, queue))?;
    if params.queries == 0 || params.heads == 0 || params.head_dim == 0 {
        return Ok(());
    }
    let workspace = workspace(queue, &params, args.q.dtype())?;
    let address = workspace.as_ref().map_or(0, |workspace| workspace.address().0);
    let params = AttentionParams { workspace: address, ..params };
    match args.q.dtype() {
        // SAFETY: `params` found every tensor in shape, of this stream, and the output apart from the inputs; a view's memory
        // stays mapped until the work launched on it is done.
        DType::Bf16 => unsafe { queue.stream().launch::<AttentionKernel<bf16>>(&params)? },
        // SAFETY: as above; `params` allows no third element type.
        _ => unsafe { queue.stream().launch::<AttentionKernel<f32>>(&params)? },
    }
    Ok(())
}

/// Room for the partial sums that a kernel may keep: the same on every device, so that a plan made on `Sim` holds. It is given back when this call returns,
/// to whatever the stream does next.
fn workspace<B: Backend>(
    queue: &Queue<B>,
    params: &AttentionParams,
    dtype: DType,
) -> Result<Option<Buffer<B>>> {
    let bytes = if dtype == DType::Bf16 { workspace_bytes(params) } else { 0 };
    if bytes == 0 { Ok(None) } else { Ok(Some(queue.pool().allocate(bytes, "attention workspace")?)) }
}

/// What a mask becomes in the kernel's parameters.
#[derive(Clone, Copy, Debug, Default)]
struct MaskParams {
    bias_table: u64,
    causal: u32,
    buckets: u32,
    max_distance: u32,
}

impl Attention<'_> {
    /// Checks everything and fills the kernel's parameters.
    #[expect(clippy::cast_precision_loss, reason = "for messages")]
    fn params(&self, check: Check) -> Result<AttentionParams> {
        let out = check.tensor("out", self.out)?.dense_rows()?;
        let q = check.tensor("q", self.q)?.dense_rows()?.apart(out)?;
        let dtype = q.float()?;
        let [queries, heads, head_dim] = q.extents()?;
        out.is(dtype, &[queries, heads, head_dim])?;
        let k = check.tensor("k", self.k)?.dense_rows()?.apart(out)?;
        let [keys, ..] = k.extents::<3>()?;
        k.is(dtype, &[keys, heads, head_dim])?;
        let v = check.tensor("v", self.v)?.is(dtype, &[keys, heads, head_dim])?.dense_rows()?.apart(out)?;
        check.value("keys", 0.0, "at least 1", keys > 0)?;
        check.value("heads", heads as f64, "at most 65535", heads <= HEADS_MAX as usize)?;
        check.value("head_dim", head_dim as f64, "at most 2888", head_dim <= PLAIN_HEAD_DIM_MAX as usize)?;
        check.value("scale", f64::from(self.scale), "finite", self.scale.is_finite())?;
        let mask = self.mask_params(check, dtype, [queries, keys, heads], out)?;
        Ok(AttentionParams {
            q: q.address(),
            k: k.address(),
            v: v.address(),
            out: out.address(),
            bias_table: mask.bias_table,
            workspace: 0,
            q_row_stride: q.stride(0),
            q_head_stride: q.stride(1),
            k_row_stride: k.stride(0),
            k_head_stride: k.stride(1),
            v_row_stride: v.stride(0),
            v_head_stride: v.stride(1),
            out_row_stride: out.stride(0),
            out_head_stride: out.stride(1),
            queries: check.count("queries", queries)?,
            keys: check.count("keys", keys)?,
            heads: check.count("heads", heads)?,
            head_dim: check.count("head_dim", head_dim)?,
            scale: self.scale,
            causal: mask.causal,
            buckets: mask.buckets,
            max_distance: mask.max_distance,
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "for messages")]
    fn mask_params(
        &self,
        check: Check,
        dtype: DType,
        [queries, keys, heads]: [usize; 3],
        out: Operand<'_>,
    ) -> Result<MaskParams> {
        match self.mask {
            Mask::None => Ok(MaskParams::default()),
            Mask::Causal => {
                check.value(
                    "keys under a causal mask",
                    keys as f64,
                    "as many as queries",
                    keys == queries,
                )?;
                Ok(MaskParams { causal: 1, ..MaskParams::default() })
            }
            Mask::RelativeBuckets { table, max_distance } => {
                let table = check.tensor("table", table)?.contiguous()?.apart(out)?;
                let [buckets, _] = table.extents()?;
                table.is(dtype, &[buckets, heads])?;
                check.value("buckets", buckets as f64, "at least 4", buckets >= 4)?;
                let apart = max_distance > buckets / 4;
                check.value("max_distance", max_distance as f64, "above a quarter of the buckets", apart)?;
                Ok(MaskParams {
                    bias_table: table.address(),
                    causal: 0,
                    buckets: check.count("buckets", buckets)?,
                    max_distance: check.count("max_distance", max_distance)?,
                })
            }
        }
    }
}
