//! How `euler_step.cu` is launched.

use crate::elementwise::grid;
use crate::launch::{Launch, Launches, Target};
use crate::params::EulerStepParams;

/// Eight elements a thread, on every architecture.
#[must_use]
pub fn launches(params: &EulerStepParams, _target: Target) -> Launches {
    Launches::of(&[Launch::new("euler_step_bf16", grid(1, params.count))])
}
