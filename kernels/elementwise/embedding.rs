//! How `embedding.cu` is launched.

use crate::elementwise::grid;
use crate::launch::{Launch, Launches, Target};
use crate::params::EmbeddingParams;

/// Eight columns a thread, on every architecture.
#[must_use]
pub fn launches(params: &EmbeddingParams, _target: Target) -> Launches {
    Launches::of(&[Launch::new("embedding_bf16", grid(params.rows, params.columns))])
}
