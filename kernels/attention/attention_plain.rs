//! How `attention_plain.cu` is launched.

use super::{HEADS_MAX, bias_bytes, bias_reach};
use crate::launch::{Arch, Grid, Launch, Launches};
use crate::params::AttentionParams;

/// The widest head: one warp's queries and sums fill the shared memory of the smallest card.
pub const HEAD_DIM_MAX: u32 =
    (SHARED_BYTES_MAX - BIAS_BYTES_MAX - PROBABILITIES_BYTES) / (2 * ROWS * 4) / 8 * 8;

/// Queries of a warp.
const ROWS: u32 = 4;

/// Of one warp.
const PROBABILITIES_BYTES: u32 = ROWS * 32 * 4;

/// `attention_plain_reach_max` of `bias.cuh`: with more distances than that each bias is computed where it is needed.
const REACH_MAX: u32 = 1024;

const BIAS_BYTES_MAX: u32 = (2 * REACH_MAX + 1) * 4;

const SHARED_BYTES_MAX: u32 = Arch::Sm86.shared_bytes_max();

/// As many warps a block, up to 4, as fit. `None` if not even one does, or if there are more heads than a grid has.
pub(super) fn launches(p: &AttentionParams) -> Option<Launches> {
    let warp_bytes =
        2 * ROWS * 4 * p.head_dim.checked_next_multiple_of(8)?.min(1 << 20) + PROBABILITIES_BYTES;
    let bias = if bias_reach(p) > REACH_MAX { 0 } else { u32::try_from(bias_bytes(p)).ok()? };
    let warps = ((SHARED_BYTES_MAX - bias) / warp_bytes).min(4);
    (warps > 0 && p.heads <= HEADS_MAX).then(|| {
        let blocks = [p.queries.div_ceil(ROWS * warps), p.heads, 1];
        let grid = Grid { blocks, threads: warps * 32, shared_bytes: warps * warp_bytes + bias };
        Launches::of(&[Launch::new("attention_plain_bf16", grid)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(p: &AttentionParams) -> Grid {
        launches(p).expect("it can be done").as_slice()[0].grid
    }

    #[test]
    fn four_warps_where_they_fit() {
        let p =
            AttentionParams { queries: 77, keys: 77, heads: 12, head_dim: 40, ..AttentionParams::default() };
        let grid = only(&p);
        assert_eq!(grid, Grid { blocks: [5, 12, 1], threads: 128, shared_bytes: 4 * (1280 + 512) });
        assert_eq!(only(&AttentionParams { head_dim: 512, ..p }).threads, 128);
        assert_eq!(only(&AttentionParams { head_dim: 1024, ..p }).threads, 96);
        assert_eq!(only(&AttentionParams { head_dim: HEAD_DIM_MAX, ..p }).threads, 32);
    }

    #[test]
    fn reach_is_that_of_the_kernel() {
        let line = format!("constexpr int attention_plain_reach_max = {REACH_MAX};");
        assert!(include_str!("bias.cuh").contains(&line), "bias.cuh has no `{line}`");
    }

    #[test]
    fn the_widest_head_fits_with_every_bias() {
        let p = AttentionParams {
            bias_table: 2,
            max_distance: REACH_MAX,
            queries: 5000,
            ..AttentionParams::default()
        };
        for p in [p, AttentionParams { max_distance: 1 << 30, ..p }] {
            let grid = only(&AttentionParams { head_dim: HEAD_DIM_MAX, heads: 1, ..p });
            assert!(grid.shared_bytes <= SHARED_BYTES_MAX, "{grid:?}");
        }
    }

    #[test]
    fn wider_heads_have_no_kernel() {
        let p = AttentionParams { queries: 1, keys: 1, heads: 1, ..AttentionParams::default() };
        for head_dim in [4000, u32::MAX] {
            assert_eq!(launches(&AttentionParams { head_dim, ..p }), None);
        }
        assert_eq!(launches(&AttentionParams { heads: 65_536, head_dim: 16, ..p }), None);
    }
}
