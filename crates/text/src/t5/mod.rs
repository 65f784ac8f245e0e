//! T5's encoder: bidirectional, with a learned bias by distance in place of positions.

mod block;
mod config;

use lighterage_checkpoint::Checkpoint;
use lighterage_device::{Backend, View};
use lighterage_ops::{Queue, RmsNorm, Tensor, rms_norm};
use lighterage_pager::{Pager, UnitId, Units};
use lighterage_shape::DType;

use block::Block;
pub use config::{Config, FeedForward};

use crate::registry::Registry;
use crate::{Error, Result};

/// The encoder of one sequence of ids: which units it reads, in which order.
#[derive(Debug)]
pub struct T5 {
    config: Config,
    dtype: DType,
    tokens: usize,
    embedding: UnitId,
    bias: UnitId,
    blocks: Vec<Block>,
    final_norm: UnitId,
}

impl T5 {
    /// Registers the weights that these ids need, in the order of their use. The table may be called `shared.weight` or
    /// `encoder.embed_tokens.weight`. All ids take part, padding too: whoever wants less gives fewer.
    ///
    /// # Errors
    /// [`Error::Length`] for no ids, [`Error::Id`] for one that is not in the table, [`Error::Pager`] or [`Error::Checkpoint`] for
    /// a missing or misshapen tensor.
    pub fn new(
        config: Config,
        checkpoint: &Checkpoint,
        dtype: DType,
        ids: &[u32],
        units: &mut Units,
    ) -> Result<Self> {
        if ids.is_empty() {
            return Err(Error::Length { got: 0, longest: usize::MAX });
        }
        checkpoint.check_layers("num_layers", config.num_layers, "encoder.block.")?;
        let mut registry = Registry { checkpoint, dtype, units };
        let table = table(checkpoint);
        let rows = registry.rows(table, ids, config.d_model)?;
        let embedding = registry.add(table, vec![rows]);
        let bias = registry.single(
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            &[config.relative_attention_num_buckets, config.num_heads],
        )?;
        let blocks = (0..config.num_layers)
            .map(|index| Block::new(&config, index, &mut registry))
            .collect::<Result<_>>()?;
        let final_norm = registry.single("encoder.final_layer_norm.weight", &[config.d_model])?;
        Ok(Self { config, dtype, tokens: ids.len(), embedding, bias, blocks, final_norm })
    }

    /// Runs the encoder: the last hidden state, `[tokens, d_model]`; `pager` has the units that [`new`](Self::new) registered.
    ///
    /// # Errors
    /// [`Error::Pager`] or [`Error::Ops`]: no memory, or a device that fails.
    pub fn forward<B: Backend>(&self, queue: &Queue<B>, pager: &Pager<B>) -> Result<Tensor<B>> {
        let hidden =
            self.fetch(self.embedding, &[self.tokens, self.config.d_model], "t5 hidden", queue, pager)?;
        // Every block's attention reads the table: a few kilobytes, kept, so that the weights' cycle stays one straight run.
        let buckets = [self.config.relative_attention_num_buckets, self.config.num_heads];
        let bias = self.fetch(self.bias, &buckets, "t5 position bias", queue, pager)?;
        let run = Run { config: &self.config, bias: bias.view(), queue, pager };
        for block in &self.blocks {
            block.forward(&hidden, &run)?;
        }
        run.norm(self.final_norm, hidden.view(), hidden.view())?;
        Ok(hidden)
    }

    /// A unit's only tensor, as a tensor of our own.
    fn fetch<B: Backend>(
        &self,
        unit: UnitId,
        shape: &[usize],
        tag: &'static str,
        queue: &Queue<B>,
        pager: &Pager<B>,
    ) -> Result<Tensor<B>> {
        let tensor = queue.tensor(self.dtype, shape, tag)?;
        let lease = pager.lease(unit)?;
        queue.stream().copy(tensor.view(), lease.tensor(0))?;
        Ok(tensor)
    }
}

/// What every launch of the encoder shares.
struct Run<'a, B: Backend> {
    config: &'a Config,
    bias: View<'a>,
    queue: &'a Queue<B>,
    pager: &'a Pager<B>,
}

impl<B: Backend> Run<'_, B> {
    fn norm(&self, unit: UnitId, x: View<'_>, out: View<'_>) -> Result<()> {
        let lease = self.pager.lease(unit)?;
        let args = RmsNorm { x, weight: lease.tensor(0), eps: self.config.layer_norm_epsilon, out };
        Ok(rms_norm(self.queue, &args)?)
    }
}

fn table(checkpoint: &Checkpoint) -> &'static str {
    const NAMES: [&str; 2] = ["shared.weight", "encoder.embed_tokens.weight"];
    NAMES.into_iter().find(|name| checkpoint.get(name).is_some()).unwrap_or(NAMES[0])
}
