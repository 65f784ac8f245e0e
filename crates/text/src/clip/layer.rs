use lighterage_device::{Backend, View};
use lighterage_ops::{
    ActivationKind, Attention, LayerNorm, Linear, Mask, Queue, Residual, Tensor, attention, layer_norm,
    linear,
};
use lighterage_pager::{Pager, UnitId};

use super::Config;
use crate::Result;
use crate::registry::Registry;

/// One layer: `h += out(attention(norm1 h))`, then `h += fc2(act(fc1(norm2 h)))`.
#[derive(Debug)]
pub(super) struct Layer {
    norm1: UnitId,
    qkv: UnitId,
    out: UnitId,
    norm2: UnitId,
    fc1: UnitId,
    fc2: UnitId,
}

impl Layer {
    pub(super) fn new(config: &Config, name: &str, registry: &mut Registry<'_>) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let projections = ["q", "k", "v"].map(|letter| format!("{name}.self_attn.{letter}_proj"));
        Ok(Self {
            norm1: registry.layer_norm(&format!("{name}.layer_norm1"), width)?,
            qkv: registry.biased_stack(&format!("{name}.self_attn.qkv"), &projections, width, width)?,
            out: registry.linear(&format!("{name}.self_attn.out_proj"), width, width)?,
            norm2: registry.layer_norm(&format!("{name}.layer_norm2"), width)?,
            fc1: registry.linear(&format!("{name}.mlp.fc1"), inner, width)?,
            fc2: registry.linear(&format!("{name}.mlp.fc2"), width, inner)?,
        })
    }

    /// Updates `hidden`, `[tokens, hidden_size]`, in place.
    pub(super) fn forward<B: Backend>(
        &self,
        config: &Config,
        hidden: &Tensor<B>,
        queue: &Queue<B>,
        pager: &Pager<B>,
    ) -> Result<()> {
        let run = Run { config, queue, pager };
        let normal = queue.tensor(hidden.dtype(), hidden.shape(), "clip normalised")?;
        run.norm(self.norm1, hidden.view(), normal.view())?;
        let qkv = queue.tensor(hidden.dtype(), &[hidden.shape()[0], 3 * config.hidden_size], "clip qkv")?;
        run.linear(self.qkv, normal.view(), None, None, qkv.view())?;
        run.attend(qkv.view(), normal.view())?;
        drop(qkv);
        run.linear(self.out, normal.view(), None, Some(hidden.view()), hidden.view())?;

        run.norm(self.norm2, hidden.view(), normal.view())?;
        let inner =
            queue.tensor(hidden.dtype(), &[hidden.shape()[0], config.intermediate_size], "clip mlp")?;
        run.linear(self.fc1, normal.view(), Some(config.activation()), None, inner.view())?;
        run.linear(self.fc2, inner.view(), None, Some(hidden.view()), hidden.view())
    }
}

/// What every launch of a layer shares.
struct Run<'a, B: Backend> {
    config: &'a Config,
    queue: &'a Queue<B>,
    pager: &'a Pager<B>,
}

impl<B: Backend> Run<'_, B> {
    fn norm(&self, unit: UnitId, x: View<'_>, out: View<'_>) -> Result<()> {
        let lease = self.pager.lease(unit)?;
        let (weight, bias) = (lease.tensor(0), lease.tensor(1));
        Ok(layer_norm(self.queue, &LayerNorm { x, weight, bias, eps: self.config.layer_norm_eps, out })?)
    }

    fn linear(
        &self,
        unit: UnitId,
        x: View<'_>,
        activation: Option<ActivationKind>,
        residual: Option<View<'_>>,
        out: View<'_>,
    ) -> Result<()> {
        let lease = self.pager.lease(unit)?;
        let (weight, bias) = (lease.tensor(0), Some(lease.tensor(1)));
        let residual = residual.map(|x| Residual { x, gate: None });
        Ok(linear(self.queue, &Linear { x, weight, bias, activation, residual, out })?)
    }

    /// `qkv` is `[tokens, 3 hidden_size]`, `out` `[tokens, hidden_size]`.
    fn attend(&self, qkv: View<'_>, out: View<'_>) -> Result<()> {
        let (width, heads) = (self.config.hidden_size, self.config.num_attention_heads);
        let part = |index: usize| qkv.narrow(1, index * width, width)?.split(1, heads);
        let args = Attention {
            q: part(0)?,
            k: part(1)?,
            v: part(2)?,
            out: out.split(1, heads)?,
            #[expect(clippy::cast_precision_loss, reason = "a head has fewer than 2^24 columns")]
            scale: (self.config.head_dim() as f32).sqrt().recip(),
            mask: Mask::Causal,
        };
        Ok(attention(self.queue, &args)?)
    }
}
