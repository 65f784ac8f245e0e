use lighterage_device::{Backend, View};
use lighterage_ops::{
    ActivationKind, Attention, Geglu, Linear, Mask, Residual, Tensor, attention, geglu, linear,
};
use lighterage_pager::UnitId;

use super::{Config, Run};
use crate::Result;
use crate::registry::Registry;

/// One block: `h += o(attention(norm h))`, then `h += wo(gelu(wi_0 norm h) * (wi_1 norm h))`, or without a gate `h += wo(relu(wi norm h))`. No
/// biases anywhere.
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
        let wi = |registry: &mut Registry<'_>| match config.feed_forward_proj.plain() {
            Some(_) => registry.single(&format!("{mlp}.DenseReluDense.wi.weight"), &[d_ff, d_model]),
            None => {
                let halves = ["wi_0", "wi_1"].map(|half| format!("{mlp}.DenseReluDense.{half}"));
                registry.stack(&format!("{mlp}.DenseReluDense.wi"), &halves, d_ff, d_model)
            }
        };
        // In the order in which a pass reads them.
        Ok(Self {
            attention_norm: registry.single(&format!("{attention}.layer_norm.weight"), &[d_model])?,
            qkv: registry.stack(&format!("{attention}.SelfAttention.qkv"), &projections, inner, d_model)?,
            o: registry.single(&format!("{attention}.SelfAttention.o.weight"), &[d_model, inner])?,
            mlp_norm: registry.single(&format!("{mlp}.layer_norm.weight"), &[d_model])?,
            wi: wi(registry)?,
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
        let qkv = run.expand(
            self.attention_norm,
            Wide { unit: self.qkv, columns: 3 * inner, activation: None },
            hidden,
        )?;
        let out = run.queue.tensor(hidden.dtype(), &[hidden.shape()[0], inner], "t5 attention")?;
        run.attention(qkv.view(), out.view())?;
        drop(qkv);
        run.linear(self.o, None, out.view(), Some(hidden.view()), hidden.view())
    }

    fn feed_forward<B: Backend>(&self, hidden: &Tensor<B>, run: &Run<'_, B>) -> Result<()> {
        let inner = match run.config.feed_forward_proj.plain() {
            Some(activation) => run.expand(
                self.mlp_norm,
                Wide { unit: self.wi, columns: run.config.d_ff, activation: Some(activation) },
                hidden,
            )?,
            None => self.gated(hidden, run)?,
        };
        run.linear(self.wo, None, inner.view(), Some(hidden.view()), hidden.view())
    }

    /// `gelu(wi_0 norm h) * (wi_1 norm h)`, `[tokens, d_ff]`.
    fn gated<B: Backend>(&self, hidden: &Tensor<B>, run: &Run<'_, B>) -> Result<Tensor<B>> {
        let d_ff = run.config.d_ff;
        let both =
            run.expand(self.mlp_norm, Wide { unit: self.wi, columns: 2 * d_ff, activation: None }, hidden)?;
        let gated = run.queue.tensor(hidden.dtype(), &[hidden.shape()[0], d_ff], "t5 gated")?;
        geglu(run.queue, &Geglu { x: both.view(), out: gated.view() })?;
        Ok(gated)
    }
}

/// A linear behind a norm.
#[derive(Clone, Copy, Debug)]
struct Wide {
    unit: UnitId,
    columns: usize,
    activation: Option<ActivationKind>,
}

impl<B: Backend> Run<'_, B> {
    /// `activation(linear(norm(hidden)))`, `[tokens, columns]`.
    fn expand(&self, norm: UnitId, wide: Wide, hidden: &Tensor<B>) -> Result<Tensor<B>> {
        let normal = self.queue.tensor(hidden.dtype(), hidden.shape(), "t5 normalised")?;
        self.norm(norm, hidden.view(), normal.view())?;
        let out = self.queue.tensor(hidden.dtype(), &[hidden.shape()[0], wide.columns], "t5 projection")?;
        self.linear(wide.unit, wide.activation, normal.view(), None, out.view())?;
        Ok(out)
    }

    fn linear(
        &self,
        unit: UnitId,
        activation: Option<ActivationKind>,
        x: View<'_>,
        residual: Option<View<'_>>,
        out: View<'_>,
    ) -> Result<()> {
        let lease = self.pager.lease(unit)?;
        let residual = residual.map(|x| Residual { x, gate: None });
        let args = Linear { x, weight: lease.tensor(0), bias: None, activation, residual, out };
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
