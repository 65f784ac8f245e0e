//! How `attention_sm80.cu` is launched.

use super::{HEADS_MAX, bias_bytes, has_aligned_rows};
use crate::launch::{Arch, Grid, Launch, Launches, Target};
use crate::params::AttentionParams;

/// A variant: queries of a warp, warps of a block, keys of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tiling {
    image: &'static str,
    warp_queries: u32,
    warps: u32,
    tile_keys: u32,
}

const D64_FEW: Tiling =
    Tiling { image: "attention_sm80_d64_16x4_bf16", warp_queries: 16, warps: 4, tile_keys: 64 };
const D64: Tiling = Tiling { image: "attention_sm80_d64_16x8_bf16", warps: 8, ..D64_FEW };
const D128_FEW: Tiling = Tiling { image: "attention_sm80_d128_16x4_bf16", ..D64_FEW };
const D128: Tiling = Tiling { image: "attention_sm80_d128_16x8_bf16", ..D64 };
const D128_WIDE: Tiling =
    Tiling { image: "attention_sm80_d128_32x4_bf16", warp_queries: 32, warps: 4, tile_keys: 32 };

impl Tiling {
    const fn queries(self) -> u32 {
        self.warp_queries * self.warps
    }

    fn shared_bytes(self, p: &AttentionParams) -> u64 {
        u64::from(self.queries() + 4 * self.tile_keys) * u64::from(p.head_dim) * 2 + bias_bytes(p)
    }

    fn blocks(self, p: &AttentionParams) -> u64 {
        u64::from(p.queries.div_ceil(self.queries())) * u64::from(p.heads)
    }
}

/// `None` for other head dims, rows off 16 bytes, more heads than a grid has, and biases that do not fit.
pub(super) fn launches(p: &AttentionParams, target: Target) -> Option<Launches> {
    let tiling = tiling(p, target)?;
    let shared_bytes = u32::try_from(tiling.shared_bytes(p)).ok()?;
    let fits = shared_bytes <= target.arch.shared_bytes_max() && p.heads <= HEADS_MAX;
    (fits && has_aligned_rows(p)).then(|| {
        let blocks = [p.queries.div_ceil(tiling.queries()), p.heads, 1];
        let grid = Grid { blocks, threads: tiling.warps * 32, shared_bytes };
        Launches::of(&[Launch::new(tiling.image, grid)])
    })
}

/// Half as many queries a block where that brings work to multiprocessors that had none.
fn tiling(p: &AttentionParams, target: Target) -> Option<Tiling> {
    let has_mask = p.causal != 0 || p.bias_table != 0;
    let (few, many) = match (p.head_dim, target.arch) {
        (64, _) => (D64_FEW, D64),
        (128, Arch::Sm80 | Arch::Sm90a | Arch::Sm100a) if !has_mask => (D128_FEW, D128_WIDE),
        (128, _) => (D128_FEW, D128),
        _ => return None,
    };
    let idles = many.blocks(p) < u64::from(target.multiprocessors);
    Some(if idles || p.queries <= few.queries() { few } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flux() -> AttentionParams {
        AttentionParams {
            queries: 4608,
            keys: 4608,
            heads: 24,
            head_dim: 128,
            q_row_stride: 9216,
            q_head_stride: 128,
            ..AttentionParams::default()
        }
    }

    fn only(p: &AttentionParams, arch: Arch) -> Launch {
        let launches = launches(p, Target::typical(arch)).expect("it can be done");
        assert_eq!(launches.as_slice().len(), 1);
        launches.as_slice()[0]
    }

    #[test]
    fn flux_takes_128_queries_a_block() {
        let launch = only(&flux(), Arch::Sm80);
        assert_eq!(launch.image, "attention_sm80_d128_32x4_bf16");
        let grid = Grid { blocks: [36, 24, 1], threads: 128, shared_bytes: 64 << 10 };
        assert_eq!(launch.grid, grid);
        let launch = only(&flux(), Arch::Sm120a);
        assert_eq!(launch.image, "attention_sm80_d128_16x8_bf16");
        assert_eq!(launch.grid, Grid { threads: 256, shared_bytes: 96 << 10, ..grid });
    }

    #[test]
    fn every_variant_fits_the_smallest_card() {
        for tiling in [D64_FEW, D64, D128_FEW, D128, D128_WIDE] {
            let head_dim = if tiling.image.contains("d64") { 64 } else { 128 };
            let t5 = AttentionParams { bias_table: 1, max_distance: 128, head_dim, ..flux() };
            let bytes = tiling.shared_bytes(&t5);
            assert!(
                bytes <= u64::from(Arch::Sm86.shared_bytes_max()),
                "{}: {bytes} bytes of shared memory",
                tiling.image
            );
        }
    }

    #[test]
    fn few_queries_take_small_blocks() {
        let small = AttentionParams { queries: 512, heads: 12, ..flux() };
        assert_eq!(only(&small, Arch::Sm80).image, "attention_sm80_d128_16x4_bf16");
        assert_eq!(only(&small, Arch::Sm80).grid.blocks, [8, 12, 1]);
        let one = AttentionParams { queries: 1, heads: 1000, head_dim: 64, ..flux() };
        assert_eq!(only(&one, Arch::Sm89).image, "attention_sm80_d64_16x4_bf16");
    }

    #[test]
    fn masks_go_to_the_variants_that_know_them() {
        for masked in [
            AttentionParams { causal: 1, ..flux() },
            AttentionParams { bias_table: 1, max_distance: 128, ..flux() },
        ] {
            assert_eq!(only(&masked, Arch::Sm80).image, "attention_sm80_d128_16x8_bf16");
        }
    }

    #[test]
    fn what_it_cannot_do_is_left_to_others() {
        let target = Target::typical(Arch::Sm89);
        let wide = AttentionParams { bias_table: 16, max_distance: 100_000, ..flux() };
        for other in [
            AttentionParams { head_dim: 40, ..flux() },
            AttentionParams { k_row_stride: 9220, ..flux() },
            AttentionParams { out: 8, ..flux() },
            AttentionParams { heads: 65_536, ..flux() },
            wide,
        ] {
            assert_eq!(launches(&other, target), None, "{other:?}");
        }
    }
}
