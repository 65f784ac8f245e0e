//! How `sinusoid.cu` is launched.

use crate::elementwise::grid;
use crate::launch::{Launch, Launches, Target};
use crate::params::SinusoidParams;

/// Eight angles a thread, on every architecture.
#[must_use]
pub fn launches(params: &SinusoidParams, _target: Target) -> Launches {
    Launches::of(&[Launch::new("sinusoid_bf16", grid(params.rows, params.columns / 2))])
}
