use lighterage_device::{Backend, View};

use crate::{Queue, Result};

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

/// See [`Attention`].
pub fn attention<B: Backend>(_queue: &Queue<B>, _args: &Attention<'_>) -> Result<()> {
    todo!()
}
