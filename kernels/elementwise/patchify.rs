//! How `patchify.cu` is launched.

use crate::elementwise::grid;
use crate::launch::{Launch, Launches, Target};
use crate::params::PatchifyParams;

/// Eight columns of a token a thread, on every architecture.
#[must_use]
pub fn launches(params: &PatchifyParams, _target: Target) -> Launches {
    Launches::of(&[Launch::new(
        "patchify_bf16",
        grid(params.height / 2 * (params.width / 2), 4 * params.channels),
    )])
}
