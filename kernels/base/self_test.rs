//! How `self_test.cu` is launched.

use crate::launch::{Grid, Launch, Launches, Target};

/// Adds one to four floats.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct SelfTestParams {
    /// Address of `[4]` floats.
    pub target: u64,
    /// Address of `[4]` floats; may be `target`.
    pub source: u64,
}

/// One warp, on every architecture.
#[must_use]
pub fn launches(_params: &SelfTestParams, _target: Target) -> Launches {
    Launches::of(&[Launch::new("self_test_add_one", Grid::line(1, 32))])
}
