//! Launches of attention: which kernel does which shape on which card.
//!
//! The choice, in this order: `attention_sm90a.cu` (TMA and wgmma; head dim 128, no mask), `attention_sm80.cu` (mma.sync; head dims 64 and 128, all masks), and
//! `attention_plain.cu` for what is left: other head dims, rows off 16 bytes, a bias table that does not fit, a factor on the scores that is not positive.

mod attention_plain;
mod attention_sm80;
mod attention_sm90a;

use crate::launch::{Launches, Target};
use crate::params::AttentionParams;

/// The first kernel that can do it; [`Launches::NONE`] only for heads too wide for the plain one, which does [`PLAIN_HEAD_DIM_MAX`] in any case,
/// and for more than [`HEADS_MAX`] heads.
///
/// ```
/// use lighterage_kernels::attention::launches;
/// use lighterage_kernels::launch::{Arch, Target};
/// use lighterage_kernels::params::AttentionParams;
///
/// let clip = AttentionParams { queries: 77, keys: 77, heads: 12, head_dim: 40, ..AttentionParams::default() };
/// let launches = launches(&clip, Target::typical(Arch::Sm89));
/// assert_eq!(launches.as_slice()[0].image, "attention_plain_bf16");
/// ```
#[must_use]
pub fn launches(params: &AttentionParams, target: Target) -> Launches {
    // They mask scores before the factor, with minus infinity, which only a positive one leaves the smallest.
    let has_order = params.scale > 0.0;
    let by_tensor_cores =
        || attention_sm90a::launches(params, target).or_else(|| attention_sm80::launches(params, target));
    has_order
        .then(by_tensor_cores)
        .flatten()
        .or_else(|| attention_plain::launches(params))
        .unwrap_or(Launches::NONE)
}

pub use attention_plain::HEAD_DIM_MAX as PLAIN_HEAD_DIM_MAX;

/// Heads that a call can have: blocks of a grid in y (CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability").
pub const HEADS_MAX: u32 = 65_535;

pub use attention_sm90a::workspace_bytes;

/// Whether every row of q, k, v and out begins at a multiple of 16 bytes.
fn has_aligned_rows(p: &AttentionParams) -> bool {
    let addresses = p.q | p.k | p.v | p.out;
    let strides = [
        p.q_row_stride,
        p.q_head_stride,
        p.k_row_stride,
        p.k_head_stride,
        p.v_row_stride,
        p.v_head_stride,
        p.out_row_stride,
        p.out_head_stride,
    ];
    addresses.is_multiple_of(16) && strides.iter().all(|stride| stride.is_multiple_of(8))
}

/// Bytes of one head's biases by distance in shared memory; 0 without a bias.
fn bias_bytes(p: &AttentionParams) -> u64 {
    if p.bias_table == 0 { 0 } else { (2 * u64::from(bias_reach(p)) + 1) * 4 }
}

/// `bias_reach` of `bias.cuh`.
fn bias_reach(p: &AttentionParams) -> u32 {
    p.max_distance.min(p.queries.max(p.keys))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::Arch;

    /// Minus infinity times zero is no score at all.
    #[test]
    fn scores_times_zero_are_left_to_the_plain_kernel() {
        let sizes = AttentionParams {
            queries: 100,
            keys: 100,
            heads: 1,
            head_dim: 128,
            ..AttentionParams::default()
        };
        for arch in Arch::ALL {
            for (scale, is_plain) in [(0.0, true), (-0.0, true), (-1.0, true), (0.1, false)] {
                let launches = launches(&AttentionParams { scale, ..sizes }, Target::typical(arch));
                let image = launches.as_slice()[0].image;
                assert_eq!(image == "attention_plain_bf16", is_plain, "{arch}, {scale}: {image}");
            }
        }
    }
}
