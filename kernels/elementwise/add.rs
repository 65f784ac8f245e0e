//! How `add.cu` is launched.

use crate::elementwise::grid;
use crate::launch::{Launch, Launches, Target};
use crate::params::AddParams;

/// Eight columns a thread, on every architecture.
#[must_use]
pub fn launches(params: &AddParams, _target: Target) -> Launches {
    Launches::of(&[Launch::new("add_bf16", grid(params.rows, params.columns))])
}
