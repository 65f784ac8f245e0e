use lighterage_device::{Backend, View};
use lighterage_ops::{Attention, Geglu, Linear, Mask, Residual, Tensor, attention, geglu, linear};
use lighterage_pager::UnitId;

use super::{Config, Run};
use crate::Result;
use crate::registry::Registry;

/// One block: `h += o(attention(norm h))`, then `h += wo(gelu(wi_0 norm h) * (wi_1 norm h))`. No biases anywhere.
#[derive(Debug)]
pub(super) struct Block {
    attention_norm: UnitId,
    qkv: UnitId,
    o: UnitId,
    mlp_norm: UnitId,
    wi: UnitId,
    wo: UnitId,
}

impl Block {
    pub(super) fn new(config: &Config, index: usize, registry: &mut Registry<'_>) -> Result<Self> {
        let Config { d_model, d_ff, .. } = *config;
        let inner = config.inner();
        let attention = format!("encoder.block.{index}.layer.0");
        let mlp = format!("encoder.block.{index}.layer.1");
        let projections = ["q", "k", "v"].map(|letter| format!("{attention}.SelfAttention.{letter}"));
        let halves = ["wi_0", "wi_1"].map(|half| format!("{mlp}.DenseReluDense.{half}"));
        Ok(Self {
            attention_norm: registry.single(&format!("{attention}.layer_norm.weight"), &[d_model])?,
            qkv: registry.stack(&format!("{attention}.SelfAttention.qkv"), &projections, inner, d_model)?,
            o: registry.single(&format!("{attention}.SelfAttention.o.weight"), &[d_model, inner])?,
            mlp_norm: registry.single(&format!("{mlp}.layer_norm.weight"), &[d_model])?,
            wi: registry.stack(&format!("{mlp}.DenseReluDense.wi"), &halves, d_ff, d_model)?,
            wo: registry.single(&format!("{mlp}.DenseReluDense.wo.weight"), &[d_model, d_ff])?,
        })
    }

    /// Updates `hidden`, `[tokens, d_model]`, in place.
    pub(super) fn forward<B: Backend>(&self, hidden: &Tensor<B>, run: &Run<'_, B>) -> Result<()> {
        self.attend(hidden, run)?;
        self.feed_forward(hidden, run)
    }

    fn attend<B: Backend>(&self, hidden: &Tensor<B>, run: &Run<'_, B>) -> Result<()> {
        let inner = run.config.inner();
        let qkv = run.expand(self.attention_norm, self.qkv, hidden, 3 * inner)?;
        let out = run.queue.tensor(hidden.dtype(), &[hidden.shape()[0], inner], "t5 attention")?;
        run.attention(qkv.view(), out.view())?;
        drop(qkv);
        run.linear(self.o, out.view(), Some(hidden.view()), hidden.view())
    }

    fn feed_forward<B: Backend>(&self, hidden: &Tensor<B>, run: &Run<'_, B>) -> Result<()> {
        let d_ff = run.config.d_ff;
        let both = run.expand(self.mlp_norm, self.wi, hidden, 2 * d_ff)?;
        let gated = run.queue.tensor(hidden.dtype(), &[hidden.shape()[0], d_ff], "t5 gated")?;
        geglu(run.queue, &Geglu { x: both.view(), out: gated.view() })?;
        drop(both);
        run.linear(self.wo, gated.view(), Some(hidden.view()), hidden.view())
    }
}

impl<B: Backend> Run<'_, B> {
    /// `linear(norm(hidden))`, `[tokens, columns]`.
    fn expand(&self, norm: UnitId, weight: UnitId, hidden: &Tensor<B>, columns: usize) -> Result<Tensor<B>> {
        let normal = self.queue.tensor(hidden.dtype(), hidden.shape(), "t5 normalised")?;
        self.norm(norm, hidden.view(), normal.view())?;
        let out = self.queue.tensor(hidden.dtype(), &[hidden.shape()[0], columns], "t5 projection")?;
        self.linear(weight, normal.view(), None, out.view())?;
        Ok(out)
    }

    fn linear(&self, unit: UnitId, x: View<'_>, residual: Option<View<'_>>, out: View<'_>) -> Result<()> {
        let lease = self.pager.lease(unit)?;
        let residual = residual.map(|x| Residual { x, gate: None });
        let args = Linear { x, weight: lease.tensor(0), bias: None, activation: None, residual, out };
        Ok(linear(self.queue, &args)?)
    }

    /// `qkv` is `[tokens, 3 inner]`, `out` `[tokens, inner]`. The scores are not scaled: T5's initialisation took care of it.
    fn attention(&self, qkv: View<'_>, out: View<'_>) -> Result<()> {
        let (inner, heads) = (self.config.inner(), self.config.num_heads);
        let part = |index: usize| qkv.narrow(1, index * inner, inner)?.split(1, heads);
        let max_distance = self.config.relative_attention_max_distance;
        let mask = Mask::RelativeBuckets { table: self.bias, max_distance };
        let args =
            Attention { q: part(0)?, k: part(1)?, v: part(2)?, out: out.split(1, heads)?, scale: 1.0, mask };
        Ok(attention(self.queue, &args)?)
    }
}
