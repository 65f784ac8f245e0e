//! How `upsample.cu` is launched.

use crate::elementwise::grid;
use crate::launch::{Launch, Launches, Target};
use crate::params::UpsampleParams;

/// Eight channels of an input pixel a thread, on every architecture.
#[must_use]
pub fn launches(params: &UpsampleParams, _target: Target) -> Launches {
    Launches::of(&[Launch::new("upsample_bf16", grid(params.height * params.width, params.channels))])
}
