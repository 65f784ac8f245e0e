//! CLIP's text encoder: a causal transformer whose state at the end token is the pooled vector.

mod config;
mod layer;

use lighterage_checkpoint::Checkpoint;
use lighterage_device::Backend;
use lighterage_ops::{Add, LayerNorm, Queue, Tensor, add, layer_norm};
use lighterage_pager::{Pager, UnitId, Units};
use lighterage_shape::DType;

pub use config::{Activation, Config};
use layer::Layer;

use crate::registry::Registry;
use crate::{Error, Result};

/// The encoder of one sequence of ids: which units it reads, in which order.
#[derive(Debug)]
pub struct Clip {
    config: Config,
    dtype: DType,
    tokens: usize,
    end: usize,
    embeddings: UnitId,
    layers: Vec<Layer>,
    final_norm: UnitId,
}

/// What the encoder makes of its ids.
#[derive(Debug)]
pub struct Output<B: Backend> {
    /// `[tokens, hidden_size]`: every position's state after the final norm.
    pub last_hidden_state: Tensor<B>,
    /// `[1, hidden_size]`: the row of the end token.
    pub pooled: Tensor<B>,
}

impl Clip {
    /// Registers the weights that these ids need, in the order of their use. The names may have the `text_model.` prefix or not.
    ///
    /// # Errors
    /// [`Error::Length`] for no ids or more than there are positions, [`Error::Id`] for one that is not in the table,
    /// [`Error::Pager`] or [`Error::Checkpoint`] for a missing or misshapen tensor.
    pub fn new(
        config: Config,
        checkpoint: &Checkpoint,
        dtype: DType,
        ids: &[u32],
        units: &mut Units,
    ) -> Result<Self> {
        let longest = config.max_position_embeddings;
        if ids.is_empty() || ids.len() > longest {
            return Err(Error::Length { got: ids.len(), longest });
        }
        let prefix = prefix(checkpoint);
        let layers = format!("{prefix}encoder.layers.");
        checkpoint.check_layers("num_hidden_layers", config.num_hidden_layers, &layers)?;
        let mut registry = Registry { checkpoint, dtype, units };
        let embeddings = embeddings(&mut registry, prefix, ids, config.hidden_size)?;
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::new(&config, &format!("{layers}{index}"), &mut registry))
            .collect::<Result<_>>()?;
        let final_norm = registry.layer_norm(&format!("{prefix}final_layer_norm"), config.hidden_size)?;
        let end = config.end_position(ids);
        Ok(Self { config, dtype, tokens: ids.len(), end, embeddings, layers, final_norm })
    }

    /// The longest sequence: the rows of the table of positions, which the configuration has to agree with.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if there is no such table, [`Error::Positions`] if it has another number of rows.
    pub fn positions(config: &Config, checkpoint: &Checkpoint) -> Result<usize> {
        let tensor = format!("{}embeddings.position_embedding.weight", prefix(checkpoint));
        let rows = checkpoint.tensor(&tensor)?.shape().first().copied().unwrap_or(0);
        let configured = config.max_position_embeddings;
        let differ = || Error::Positions { configured, rows, tensor }.within(checkpoint.path());
        if rows == configured { Ok(rows) } else { Err(differ()) }
    }

    /// Runs the encoder; `pager` has the units that [`new`](Self::new) registered.
    ///
    /// # Errors
    /// [`Error::Pager`] or [`Error::Ops`]: no memory, or a device that fails.
    pub fn forward<B: Backend>(&self, queue: &Queue<B>, pager: &Pager<B>) -> Result<Output<B>> {
        let hidden = self.embed(queue, pager)?;
        for layer in &self.layers {
            layer.forward(&self.config, &hidden, queue, pager)?;
        }
        self.normalize(&hidden, queue, pager)?;
        let pooled = queue.tensor(self.dtype, &[1, self.config.hidden_size], "clip pooled")?;
        queue.stream().copy(pooled.view(), hidden.view().rows(self.end, 1)?)?;
        Ok(Output { last_hidden_state: hidden, pooled })
    }

    fn embed<B: Backend>(&self, queue: &Queue<B>, pager: &Pager<B>) -> Result<Tensor<B>> {
        let hidden = queue.tensor(self.dtype, &[self.tokens, self.config.hidden_size], "clip hidden")?;
        let lease = pager.lease(self.embeddings)?;
        add(queue, &Add { a: lease.tensor(0), b: lease.tensor(1), scale: 1.0, out: hidden.view() })?;
        Ok(hidden)
    }

    fn normalize<B: Backend>(&self, hidden: &Tensor<B>, queue: &Queue<B>, pager: &Pager<B>) -> Result<()> {
        let lease = pager.lease(self.final_norm)?;
        let args = LayerNorm {
            x: hidden.view(),
            weight: lease.tensor(0),
            bias: lease.tensor(1),
            eps: self.config.layer_norm_eps,
            out: hidden.view(),
        };
        Ok(layer_norm(queue, &args)?)
    }
}

/// transformers 5 drops the prefix that transformers 4 and the single files write.
fn prefix(checkpoint: &Checkpoint) -> &'static str {
    const PREFIX: &str = "text_model.";
    let has_prefix = checkpoint.tensors().any(|tensor| tensor.name().starts_with(PREFIX));
    if has_prefix { PREFIX } else { "" }
}

/// One unit: the rows of the ids and the rows of their positions, which one launch adds.
fn embeddings(registry: &mut Registry<'_>, prefix: &str, ids: &[u32], columns: usize) -> Result<UnitId> {
    let positions: Vec<u32> = (0_u32..).take(ids.len()).collect();
    let name = format!("{prefix}embeddings");
    let tensors = vec![
        registry.rows(&format!("{name}.token_embedding.weight"), ids, columns)?,
        registry.rows(&format!("{name}.position_embedding.weight"), &positions, columns)?,
    ];
    Ok(registry.add(&name, tensors))
}
