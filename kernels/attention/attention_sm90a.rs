//! How `attention_sm90a.cu` is launched, and how much memory its pieces take.

use super::has_aligned_rows;
use crate::launch::{Arch, Grid, Launch, Launches, Target, TensorMap};
use crate::params::AttentionParams;

const HEAD_DIM: u32 = 128;

/// `tile_queries` and `block_keys` of `pieces.cuh`.
const TILE: u32 = 128;

/// `cut_cost_blocks` of `pieces.cuh`.
const CUT_COST_BLOCKS: u64 = 6;

/// No block of a small call gets fewer blocks of keys than this, where there are more.
const PIECE_BLOCKS_MIN: u64 = 4;

/// Blocks at most: the multiprocessors of an H100 or H200 SXM. The workspace is sized for so many, whatever the card.
const GRID_MAX: u64 = 132;

/// `workspace_header_bytes` and `piece_floats` of `pieces.cuh`.
const HEADER_BYTES: u64 = 256;
const PIECE_BYTES: u64 = (128 * 128 + 2 * 128) * 4;

/// Queries, two stages of keys and values, output; ten mbarriers.
const SHARED_BYTES: u32 = 6 * 128 * 128 * 2 + 10 * 8;

/// The work of one call, in tiles of queries and blocks of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Work {
    tiles: u64,
    blocks: u64,
}

impl Work {
    fn of(p: &AttentionParams) -> Self {
        Self {
            tiles: u64::from(p.queries.div_ceil(TILE)) * u64::from(p.heads),
            blocks: u64::from(p.keys.div_ceil(TILE)),
        }
    }

    /// One block a multiprocessor, fewer for small calls.
    fn grid(self, multiprocessors: u64) -> u64 {
        (self.tiles * self.blocks / PIECE_BLOCKS_MIN)
            .max(self.tiles)
            .min(multiprocessors.min(GRID_MAX))
            .max(1)
    }

    /// Tiles that are cut: those left over after whole rounds, if that saves more than it costs.
    fn cut(self, grid: u64) -> u64 {
        let left = self.tiles % grid;
        if left != 0 && self.blocks * (grid - left) > CUT_COST_BLOCKS * grid { left } else { 0 }
    }

    /// Tiles without cuts where there is no workspace: `grid` blocks then have nothing to share.
    fn whole_grid(self, multiprocessors: u64) -> u64 {
        self.tiles.min(multiprocessors).max(1)
    }
}

/// Whether this kernel does such calls, whatever the card and the strides.
const fn is_suited(p: &AttentionParams) -> bool {
    p.head_dim == HEAD_DIM && p.causal == 0 && p.bias_table == 0
}

/// Bytes of workspace for the pieces of cut tiles, on a card with up to 132 multiprocessors; 0 where nothing can be cut.
///
/// By sizes alone, so that a plan made without a card is exact. With `g` blocks and `c` cut tiles there are `g + c - 1` pieces at most, and `c < g`.
///
/// ```
/// use lighterage_kernels::attention::workspace_bytes;
/// use lighterage_kernels::params::AttentionParams;
///
/// let flux = AttentionParams { queries: 4608, keys: 4608, heads: 24, head_dim: 128, ..AttentionParams::default() };
/// assert_eq!(workspace_bytes(&flux), 256 + (132 + 131 - 1) * 66_560);
/// assert_eq!(workspace_bytes(&AttentionParams { head_dim: 64, ..flux }), 0);
/// ```
#[must_use]
pub fn workspace_bytes(p: &AttentionParams) -> u64 {
    let work = Work::of(p);
    // With few keys no cut pays; with very many the kernel's 32-bit arithmetic would not do.
    let fits = work.blocks > CUT_COST_BLOCKS && work.blocks < (1 << 31) / (GRID_MAX * GRID_MAX);
    if !is_suited(p) || !fits || work.tiles == 0 {
        return 0;
    }
    let grid = work.grid(GRID_MAX);
    HEADER_BYTES + (grid + work.tiles.min(grid - 1).max(1) - 1) * PIECE_BYTES
}

/// `None` for other cards, head dims and masks, and where the rules of tensor maps are not met.
pub(super) fn launches(p: &AttentionParams, target: Target) -> Option<Launches> {
    if target.arch != Arch::Sm90a || !is_suited(p) || !has_aligned_rows(p) {
        return None;
    }
    let maps = maps(p)?;
    let (work, multiprocessors) = (Work::of(p), u64::from(target.multiprocessors));
    let may_cut = p.workspace != 0 && workspace_bytes(p) != 0;
    let grid = if may_cut { work.grid(multiprocessors) } else { work.whole_grid(multiprocessors) };
    let count = |count: u64| u32::try_from(count).ok();
    i32::try_from(work.tiles + grid).ok()?;
    let grid_of = |blocks| Grid { blocks, threads: 384, shared_bytes: SHARED_BYTES };
    let main = Launch::new("attention_sm90a_bf16", grid_of([count(grid)?, 1, 1])).with_maps(&maps);
    let cut = if may_cut { work.cut(grid) } else { 0 };
    if cut == 0 {
        return Some(Launches::of(&[main]));
    }
    let join_grid = Grid { blocks: [count(cut)?, HEAD_DIM / 8, 1], threads: 256, shared_bytes: 0 };
    Some(Launches::of(&[main, Launch::new("attention_sm90a_join_bf16", join_grid)]))
}

/// q, k, v and out, in the kernel's order.
fn maps(p: &AttentionParams) -> Option<[TensorMap; 4]> {
    Some([
        map(p, p.q, p.queries, [p.q_head_stride, p.q_row_stride], TILE)?,
        map(p, p.k, p.keys, [p.k_head_stride, p.k_row_stride], TILE)?,
        map(p, p.v, p.keys, [p.v_head_stride, p.v_row_stride], TILE)?,
        map(p, p.out, p.queries, [p.out_head_stride, p.out_row_stride], TILE / 2)?,
    ])
}

/// `[rows, heads, 128]` in boxes of 64 columns of one head. `None` where a stride breaks the rules of `cuTensorMapEncodeTiled`: each covers what lies
/// inside of it, the outer is a multiple of the inner, and none has 2^40 bytes.
fn map(
    p: &AttentionParams,
    address: u64,
    rows: u32,
    [head_stride, row_stride]: [u64; 2],
    box_rows: u32,
) -> Option<TensorMap> {
    let heads = u64::from(p.heads);
    // One head is as far from the next as one likes.
    let head_stride = if heads == 1 { row_stride } else { head_stride };
    let covers = head_stride >= u64::from(HEAD_DIM) && row_stride >= head_stride.checked_mul(heads)?;
    let allowed = covers && row_stride.is_multiple_of(head_stride) && row_stride < 1 << 39;
    allowed.then(|| TensorMap {
        address,
        sizes: [u64::from(HEAD_DIM), heads, u64::from(rows), 0, 0],
        strides: [head_stride * 2, row_stride * 2, 0, 0],
        box_sizes: [64, 1, box_rows, 0, 0],
        rank: 3,
        element_bytes: 2,
        swizzle_bytes: 128,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const H100: Target = Target::typical(Arch::Sm90a);

    fn flux() -> AttentionParams {
        AttentionParams {
            q: 1 << 20,
            k: (1 << 20) + 6144,
            v: (1 << 20) + 12_288,
            out: 1 << 30,
            workspace: 1 << 32,
            queries: 4608,
            keys: 4608,
            heads: 24,
            head_dim: 128,
            q_row_stride: 9216,
            q_head_stride: 128,
            k_row_stride: 9216,
            k_head_stride: 128,
            v_row_stride: 9216,
            v_head_stride: 128,
            out_row_stride: 15_360,
            out_head_stride: 128,
            ..AttentionParams::default()
        }
    }

    /// 864 tiles are 6 rounds of 132 and 72 tiles more.
    #[test]
    fn the_last_round_of_a_flux_image_is_cut() {
        let launches = launches(&flux(), H100).expect("it can be done");
        let [main, join] = launches.as_slice() else { panic!("two launches: {launches:?}") };
        assert_eq!(main.image, "attention_sm90a_bf16");
        assert_eq!(main.grid, Grid { blocks: [132, 1, 1], threads: 384, shared_bytes: 196_688 });
        assert!(main.grid.shared_bytes <= Arch::Sm90a.shared_bytes_max());
        assert_eq!(join.image, "attention_sm90a_join_bf16");
        assert_eq!(join.grid, Grid { blocks: [72, 16, 1], threads: 256, shared_bytes: 0 });
        assert!(join.maps().is_empty());
    }

    /// 33 x 24 tiles are 6 rounds of 132.
    #[test]
    fn whole_rounds_are_not_cut() {
        let small = AttentionParams { queries: 4112, keys: 4112, ..flux() };
        let launches = launches(&small, H100).expect("it can be done");
        assert_eq!(launches.as_slice().len(), 1);
        assert_eq!(launches.as_slice()[0].grid.blocks, [132, 1, 1]);
    }

    #[test]
    fn maps_follow_the_strides() {
        let launches = launches(&flux(), H100).expect("it can be done");
        let [q, k, v, out] = launches.as_slice()[0].maps() else { panic!("four maps") };
        let expected = TensorMap {
            address: 1 << 20,
            sizes: [128, 24, 4608, 0, 0],
            strides: [256, 18_432, 0, 0],
            box_sizes: [64, 1, 128, 0, 0],
            rank: 3,
            element_bytes: 2,
            swizzle_bytes: 128,
        };
        assert_eq!(*q, expected);
        assert_eq!(*k, TensorMap { address: (1 << 20) + 6144, ..expected });
        assert_eq!(*v, TensorMap { address: (1 << 20) + 12_288, ..expected });
        let strides = [256, 30_720, 0, 0];
        assert_eq!(*out, TensorMap { address: 1 << 30, strides, box_sizes: [64, 1, 64, 0, 0], ..expected });
    }

    /// The kernel works the schedule out again, so it has to do so from the same numbers.
    #[test]
    fn numbers_are_those_of_the_kernel() {
        let header = include_str!("pieces.cuh");
        for line in [
            format!("constexpr int tile_queries = {TILE}, block_keys = {TILE};"),
            format!("constexpr int cut_cost_blocks = {CUT_COST_BLOCKS};"),
            format!("constexpr int piece_floats = tile_queries * {HEAD_DIM} + 2 * tile_queries;"),
            format!("constexpr unsigned workspace_header_bytes = {HEADER_BYTES};"),
        ] {
            assert!(header.contains(&line), "pieces.cuh has no `{line}`");
        }
        assert_eq!(PIECE_BYTES, u64::from(TILE * HEAD_DIM + 2 * TILE) * 4);
    }

    /// What a card makes of a call never needs more than what was set aside without knowing the card.
    #[test]
    fn pieces_fit_the_workspace_on_every_card() {
        for (queries, keys, heads) in
            [(1, 900, 1), (130, 5000, 1), (512, 900, 3), (4608, 4608, 24), (3000, 1700, 7)]
        {
            let p = AttentionParams { queries, keys, heads, ..flux() };
            let work = Work::of(&p);
            for multiprocessors in 1..=200 {
                let grid = work.grid(multiprocessors);
                let cut = work.cut(grid);
                assert!(grid <= work.tiles * work.blocks, "every block has work");
                let bytes = if cut == 0 { 0 } else { HEADER_BYTES + (grid + cut - 1) * PIECE_BYTES };
                assert!(bytes <= workspace_bytes(&p), "{queries} x {keys} x {heads} on {multiprocessors}");
            }
        }
    }

    #[test]
    fn without_a_workspace_tiles_stay_whole() {
        let bare = AttentionParams { workspace: 0, ..flux() };
        let launches = launches(&bare, H100).expect("it can be done");
        assert_eq!(launches.as_slice().len(), 1);
        for keys in [1, 768, 1 << 24] {
            assert_eq!(workspace_bytes(&AttentionParams { keys, ..flux() }), 0, "{keys} keys");
        }
    }

    #[test]
    fn few_queries_share_all_multiprocessors() {
        let one = AttentionParams { queries: 1, heads: 1, ..flux() };
        let launches = launches(&one, H100).expect("it can be done");
        // 36 blocks of keys, at least 4 for each.
        assert_eq!(launches.as_slice()[0].grid.blocks, [9, 1, 1]);
        assert_eq!(launches.as_slice()[1].grid.blocks, [1, 16, 1]);
    }

    #[test]
    fn what_it_cannot_do_is_left_to_others() {
        for (what, other) in [
            ("head dim", AttentionParams { head_dim: 64, ..flux() }),
            ("mask", AttentionParams { causal: 1, ..flux() }),
            ("bias", AttentionParams { bias_table: 16, ..flux() }),
            ("address", AttentionParams { q: (1 << 20) + 8, ..flux() }),
            ("stride of 8 bytes", AttentionParams { k_row_stride: 9220, ..flux() }),
            (
                "rows inside of heads",
                AttentionParams { v_row_stride: 128, v_head_stride: 4608 * 128, ..flux() },
            ),
            ("rows that are no multiple of heads", AttentionParams { out_row_stride: 15_368, ..flux() }),
        ] {
            assert_eq!(launches(&other, H100), None, "{what}");
        }
        for arch in Arch::ALL {
            let launched = launches(&flux(), Target::typical(arch)).is_some();
            assert_eq!(launched, arch == Arch::Sm90a, "{arch}");
        }
    }
}
