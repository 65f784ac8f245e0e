//! `attention_sm90a.cu`: whole tiles, rounds of them, tiles that are cut along the keys, every kind of tail.

use lighterage_kernels::launch::Arch;

use super::case::{Case, IDLE, Inputs, Tensors, case};
use super::reference::log_sum_exp;
use super::{
    assert_images, assert_keeps_constants, assert_order_of_keys_is_nothing, assert_picks_values, check,
    check_fast,
};
use crate::numerics::{FLUX_ROWS, SIZES};
use crate::runs;

const WHOLE: &[&str] = &["attention_sm90a_bf16"];
const CUT: &[&str] = &["attention_sm90a_bf16", "attention_sm90a_join_bf16"];

const fn hopper(queries: usize, keys: usize, multiprocessors: u32) -> Case {
    case([queries, keys], 1, 128, Arch::Sm90a, multiprocessors)
}

#[test]
fn sizes_around_tiles() {
    for size in [1, 15, 16, 17, 127, 128, 129] {
        assert_images(&hopper(size, size, IDLE), WHOLE);
        check(hopper(size, size, IDLE));
    }
}

#[test]
fn queries_and_keys_of_different_numbers() {
    for (queries, keys) in [(1, 129), (129, 1), (65, 300)] {
        check(hopper(queries, keys, IDLE));
    }
}

/// So many queries, so many keys; whole, and in a card of three multiprocessors.
#[test]
fn sizes_of_either_side() {
    for size in SIZES {
        for (queries, keys) in [(size, 70), (70, size), (size, size)] {
            check_fast(hopper(queries, keys, IDLE), 1);
            check_fast(hopper(queries, keys, 3), 1);
        }
    }
}

/// One block does all tiles one after another: the pipeline's stages and the turns go on from tile to tile.
#[test]
fn tiles_in_rounds() {
    for (queries, keys) in [(200, 60), (300, 260)] {
        let case = hopper(queries, keys, 1);
        assert_images(&case, WHOLE);
        if let Some(report) = check(case) {
            assert_eq!(report.blocks, 1);
        }
    }
    check(Case { heads: 2, gaps: [0, 128], ..hopper(130, 140, 3) });
}

/// One tile for three blocks.
#[test]
fn a_tile_in_pieces() {
    let case = hopper(65, 15 * 128 - 123, 3);
    assert_images(&case, CUT);
    // Three blocks, and 16 that join what they leave.
    if let Some(report) = check(case) {
        assert_eq!(report.blocks, 3 + 16);
    }
}

/// What a piece leaves of each row, its largest score and its sum of exponentials, gives the logarithm of the sum over its keys to 1e-3.
/// No other kernel writes such a number: a backward pass would want it, and there is none.
#[test]
fn pieces_leave_the_sums_of_their_keys() {
    for (inputs, scale) in
        [(Inputs::Normal(1.0), 0.0), (Inputs::Normal(3.0), 0.0), (Inputs::Normal(5.0), 1.0)]
    {
        let case = Case { inputs, scale, ..hopper(65, 15 * 128 - 123, 3) };
        if runs::lacks(case.target) {
            return;
        }
        assert_images(&case, CUT);
        let tensors = Tensors::of(&case);
        let workspace = tensors.workspace(&case);
        for piece in 0..3 {
            // As `pieces.cuh` lays them out; of the 15 blocks of keys each has five.
            let sums = &workspace[64 + piece * (128 * 128 + 256)..][128 * 128..][..256];
            let keys = piece * 5 * 128..((piece + 1) * 5 * 128).min(case.keys);
            for query in 0..case.queries {
                let [largest, sum] = [sums[query], sums[128 + query]].map(f64::from);
                let got = largest * f64::from(case.factor()) + sum.ln();
                let exact = log_sum_exp(&tensors, &case, query, keys.clone());
                assert!(
                    (got - exact).abs() <= 1e-3,
                    "{case:?}, {keys:?}, query {query}: {got}, exactly {exact}"
                );
            }
        }
    }
}

/// Pieces that end where a tile does, and that do not; blocks with whole tiles and with pieces of two tiles.
#[test]
fn rounds_and_pieces() {
    for (queries, heads, multiprocessors) in [(400, 1, 3), (450, 2, 5), (128, 7, 6), (130, 1, 5)] {
        let case = Case { heads, gaps: [0, 128], ..hopper(queries, 16 * 128 - 3, multiprocessors) };
        assert_images(&case, CUT);
        check_fast(case, 1);
    }
}

#[test]
fn five_hundred_and_twelve_rows() {
    check_fast(hopper(512, 512, 132), 1);
    check_fast(Case { heads: 2, gaps: [128, 256], ..hopper(512, 512, 2) }, 1);
}

/// 512 text tokens and 64 x 64 patches, or 60 x 60: a head of the real model.
#[test]
fn a_flux_image() {
    assert_images(&hopper(FLUX_ROWS, FLUX_ROWS, 132), CUT);
    check_fast(hopper(FLUX_ROWS, FLUX_ROWS, 132), 16);
    // The last five of 33 tiles, a round of them: a tail of queries and one of keys.
    assert_images(&hopper(528, 4112, 5), WHOLE);
    check_fast(hopper(528, 4112, 5), 4);
}

#[test]
fn a_peaky_softmax() {
    check_fast(Case { inputs: Inputs::Normal(3.0), ..hopper(100, 500, 1) }, 1);
    check_fast(Case { inputs: Inputs::Normal(3.0), ..hopper(100, 1600, 3) }, 1);
}

#[test]
fn scores_of_a_thousand() {
    check_fast(Case { inputs: Inputs::Normal(5.0), scale: 1.0, ..hopper(100, 500, 1) }, 1);
    check_fast(Case { inputs: Inputs::Normal(5.0), scale: 1.0, ..hopper(100, 1600, 3) }, 1);
}

#[test]
fn one_hot_rows_return_their_value() {
    assert_picks_values(&Case { inputs: Inputs::OneHot, scale: 1.0, ..hopper(300, 300, 2) });
    assert_picks_values(&Case { inputs: Inputs::OneHot, scale: 1.0, ..hopper(1700, 1700, 3) });
}

#[test]
fn constant_values_come_out() {
    assert_keeps_constants(&Case { inputs: Inputs::ConstantValues, ..hopper(100, 500, 1) });
    assert_keeps_constants(&Case { inputs: Inputs::ConstantValues, ..hopper(100, 1600, 3) });
}

#[test]
fn the_order_of_keys_is_nothing() {
    assert_order_of_keys_is_nothing(&hopper(100, 500, 1));
    assert_order_of_keys_is_nothing(&hopper(100, 1600, 3));
}

/// Rows that TMA cannot take go to the next kernel.
#[test]
fn other_strides_are_left_to_mma() {
    let case = Case { heads: 2, gaps: [8, 0], ..hopper(200, 200, 1) };
    assert_images(&case, &["attention_sm80_d128_32x4_bf16"]);
    check_fast(case, 1);
}
