//! How `group_norm.cu` is launched, and the workspace it needs.

use crate::elementwise::lanes;
use crate::launch::{Grid, Launch, Launches, Target};
use crate::params::GroupNormParams;

/// Channels that one block takes, eight a thread, and so the most that a group may have.
pub const CHANNELS_MAX: u32 = 2048;

/// Pixels of which a thread of the last launch takes eight channels.
const PIXELS_APPLIED: u32 = 16;

/// Pixels of which one thread sums up eight channels: more of a large image, so that fewer results remain to be added; of a small one fewer, so that
/// there are blocks enough.
const fn thread_pixels(pixels: u32, channels: u32) -> u32 {
    if (pixels as u64) * (channels as u64) < 1 << 25 { 8 } else { 32 }
}

/// Whole groups that one block takes of an image, by its channels and groups.
fn groups_of_block(channels: u32, groups: u32) -> u32 {
    (CHANNELS_MAX / (channels / groups)).min(groups)
}

/// Pixels of one block, whose statistics are one partial result.
fn block_pixels(pixels: u32, channels: u32, groups: u32) -> u32 {
    256 / lanes(groups_of_block(channels, groups) * (channels / groups)) * thread_pixels(pixels, channels)
}

/// Whether the kernel can do such groups: [`CHANNELS_MAX`] channels at most in one.
const fn is_possible(channels: u32, groups: u32) -> bool {
    groups > 0 && channels >= groups && channels / groups <= CHANNELS_MAX
}

/// Numbers (f32) that the statistics of such an image take.
///
/// ```
/// use lighterage_kernels::norm::group_norm::workspace;
/// // Factor and offset of 16 channels; 1024 pixels a block: two partial results of 4 groups, two numbers each.
/// assert_eq!(workspace(1025, 16, 4), 48);
/// ```
#[must_use]
pub fn workspace(pixels: u32, channels: u32, groups: u32) -> usize {
    if !is_possible(channels, groups) {
        return 0;
    }
    let blocks = pixels.div_ceil(block_pixels(pixels, channels, groups));
    2 * (channels as usize + groups as usize * blocks as usize)
}

/// Partial statistics of fixed blocks of pixels, the statistics of the image, and the result, on every architecture. None where one group has no channel
/// or more than [`CHANNELS_MAX`], which the op refuses.
#[must_use]
pub fn launches(params: &GroupNormParams, target: Target) -> Launches {
    let (pixels, channels, groups) = (params.pixels, params.channels, params.groups);
    if !is_possible(channels, groups) {
        return Launches::NONE;
    }
    let partial = [
        pixels.div_ceil(block_pixels(pixels, channels, groups)).max(1),
        groups.div_ceil(groups_of_block(channels, groups)),
        1,
    ];
    let lanes = lanes(channels);
    let height = pixels.div_ceil(256 / lanes * PIXELS_APPLIED).clamp(1, 65_535);
    let apply = [channels.div_ceil(8).div_ceil(lanes), height, 1];
    // A part's first channel is a multiple of the channels of its groups.
    let is_whole = [u64::from(channels), u64::from(groups_of_block(channels, groups) * (channels / groups))]
        .iter()
        .all(|count| count.is_multiple_of(8))
        && [params.x, params.out].iter().all(|address| address.is_multiple_of(16));
    let images = if is_whole {
        ["group_norm_partial_bf16", "group_norm_apply_bf16"]
    } else {
        ["group_norm_partial_any_bf16", "group_norm_apply_any_bf16"]
    };
    let grid = |blocks| Grid { blocks, threads: 256, shared_bytes: 0 };
    Launches::of(&[
        Launch::new(images[0], grid(partial)).overlapping(target),
        Launch::new("group_norm_finish_bf16", Grid::line(groups, 256)).overlapping(target),
        Launch::new(images[1], grid(apply)).overlapping(target),
    ])
}
