//! How `geglu.cu` is launched.

use crate::elementwise::grid;
use crate::launch::{Launch, Launches, Target};
use crate::params::GegluParams;

/// Eight columns a thread, on every architecture.
#[must_use]
pub fn launches(params: &GegluParams, _target: Target) -> Launches {
    Launches::of(&[Launch::new("geglu_bf16", grid(params.rows, params.columns))])
}
