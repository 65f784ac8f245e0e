//! How `activation.cu` is launched.

use crate::elementwise::grid;
use crate::launch::{Launch, Launches, Target};
use crate::params::ActivationParams;

/// Eight columns a thread, on every architecture.
#[must_use]
pub fn launches(params: &ActivationParams, _target: Target) -> Launches {
    Launches::of(&[Launch::new("activation_bf16", grid(params.rows, params.columns))])
}
