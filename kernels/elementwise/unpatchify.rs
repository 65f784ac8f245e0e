//! How `unpatchify.cu` is launched.

use crate::elementwise::grid;
use crate::launch::{Launch, Launches, Target};
use crate::params::UnpatchifyParams;

/// Eight columns of a token a thread, on every architecture.
#[must_use]
pub fn launches(params: &UnpatchifyParams, _target: Target) -> Launches {
    Launches::of(&[Launch::new(
        "unpatchify_bf16",
        grid(params.height / 2 * (params.width / 2), 4 * params.channels),
    )])
}
