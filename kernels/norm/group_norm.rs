//! How `group_norm.cu` is launched, and the workspace it needs.

use crate::elementwise::lanes;
use crate::launch::{Grid, Launch, Launches, Target};
use crate::params::GroupNormParams;

/// Channels that one block takes, eight a thread, and so the most that a group may have.
pub const CHANNELS_MAX: u32 = 2048;

/// Pixels that one thread takes, of which it keeps eight channels in registers.
const THREAD_PIXELS: u32 = 8;

/// Whole groups that one block takes of an image, by its channels and groups.
fn groups_of_block(channels: u32, groups: u32) -> u32 {
    (CHANNELS_MAX / (channels / groups)).min(groups)
}

/// Pixels of one block, whose statistics are one partial result.
fn block_pixels(channels: u32, groups: u32) -> u32 {
    256 / lanes(groups_of_block(channels, groups) * (channels / groups)) * THREAD_PIXELS
}

/// Whether the kernel can do such groups: [`CHANNELS_MAX`] channels at most in one.
const fn is_possible(channels: u32, groups: u32) -> bool {
    groups > 0 && channels >= groups && channels / groups <= CHANNELS_MAX
}

/// Numbers (f32) that the statistics of such an image take.
///
/// ```
/// use lighterage_kernels::norm::group_norm::workspace;
/// // 1024 pixels a block: two partial results and the final one, of 4 groups, two numbers each.
/// assert_eq!(workspace(1025, 16, 4), 24);
/// ```
#[must_use]
pub fn workspace(pixels: u32, channels: u32, groups: u32) -> usize {
    if !is_possible(channels, groups) {
        return 0;
    }
    2 * groups as usize * (pixels.div_ceil(block_pixels(channels, groups)) as usize + 1)
}

/// Partial statistics of fixed blocks of pixels, the statistics of the image, and the result, on every architecture. None where one group has no channel
/// or more than [`CHANNELS_MAX`], which the op refuses.
#[must_use]
pub fn launches(params: &GroupNormParams, _target: Target) -> Launches {
    let (pixels, channels, groups) = (params.pixels, params.channels, params.groups);
    if !is_possible(channels, groups) {
        return Launches::NONE;
    }
    let partial = [
        pixels.div_ceil(block_pixels(channels, groups)).max(1),
        groups.div_ceil(groups_of_block(channels, groups)),
        1,
    ];
    // A thread goes down eight rows of pixels, so that what it holds of its channels is worth loading.
    let lanes = lanes(channels);
    let height = pixels.div_ceil(256 / lanes * THREAD_PIXELS).clamp(1, 65_535);
    let apply = [channels.div_ceil(8).div_ceil(lanes), height, 1];
    Launches::of(&[
        Launch::new("group_norm_partial_bf16", Grid { blocks: partial, threads: 256, shared_bytes: 0 }),
        Launch::new("group_norm_finish_bf16", Grid::line(groups, 256)),
        Launch::new("group_norm_apply_bf16", Grid { blocks: apply, threads: 256, shared_bytes: 0 }),
    ])
}
