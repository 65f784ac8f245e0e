//! `attention_sm80.cu`: each of its variants, each mask, every kind of tail.

use lighterage_kernels::launch::Arch;

use super::case::{Case, IDLE, Inputs, Mask, case};
use super::{
    assert_images, assert_keeps_constants, assert_order_of_keys_is_nothing, assert_picks_values, check,
    check_fast,
};
use crate::numerics::{FLUX_ROWS, SIZES};

/// 16 queries a warp, 4 warps: what runs where blocks are few.
const fn few(queries: usize, keys: usize, heads: usize, head_dim: usize) -> Case {
    case([queries, keys], heads, head_dim, Arch::Sm89, IDLE)
}

/// 16 queries a warp, 8 warps.
const fn many(queries: usize, keys: usize, heads: usize, head_dim: usize) -> Case {
    case([queries, keys], heads, head_dim, Arch::Sm89, 1)
}

/// 32 queries a warp, 4 warps, 32 keys a tile; head dim 128.
const fn wide(queries: usize, keys: usize, heads: usize) -> Case {
    case([queries, keys], heads, 128, Arch::Sm80, 1)
}

/// Every variant.
const fn every(queries: usize, keys: usize) -> [Case; 5] {
    [
        few(queries, keys, 1, 64),
        few(queries, keys, 1, 128),
        many(queries, keys, 1, 64),
        many(queries, keys, 1, 128),
        wide(queries, keys, 1),
    ]
}

const BUCKETS: Mask = Mask::Buckets { buckets: 32, max_distance: 128 };

#[test]
fn each_variant_is_chosen_where_it_is_meant() {
    assert_images(&few(65, 65, 1, 64), &["attention_sm80_d64_16x4_bf16"]);
    assert_images(&few(65, 65, 1, 128), &["attention_sm80_d128_16x4_bf16"]);
    assert_images(&many(65, 65, 1, 64), &["attention_sm80_d64_16x8_bf16"]);
    assert_images(&many(65, 65, 1, 128), &["attention_sm80_d128_16x8_bf16"]);
    assert_images(&wide(65, 65, 1), &["attention_sm80_d128_32x4_bf16"]);
}

#[test]
fn sizes_around_tiles() {
    for size in [1, 15, 16, 17, 127, 128, 129] {
        check(few(size, size, 1, 128));
    }
}

/// So many queries, so many keys, and so many of both, whichever variant takes them.
#[test]
fn sizes_of_either_side() {
    for size in SIZES {
        for [queries, keys] in [[size, 70], [70, size], [size, size]] {
            for case in every(queries, keys) {
                check_fast(case, 1);
            }
        }
    }
}

#[test]
fn sizes_around_tiles_of_128_queries() {
    for size in [127, 128, 129] {
        check(many(size, size, 1, 128));
        check(wide(size, size, 1));
    }
}

#[test]
fn queries_and_keys_of_different_numbers() {
    for (queries, keys) in [(1, 129), (15, 128), (129, 1), (66, 17)] {
        check(few(queries, keys, 2, 64));
        check(many(queries.max(65), keys, 2, 64));
    }
    check(wide(70, 33, 2));
    check(wide(130, 63, 1));
}

#[test]
fn five_hundred_and_twelve_rows() {
    check_fast(few(512, 512, 1, 128), 1);
    check_fast(many(512, 512, 2, 64), 1);
    check_fast(wide(512, 512, 1), 1);
}

/// 512 text tokens and 64 x 64 patches: all keys, and queries enough for four blocks, the last with a tail.
#[test]
fn keys_of_a_flux_image() {
    check_fast(wide(400, FLUX_ROWS, 1), 1);
    check_fast(many(130, 4112, 1, 128), 1);
}

#[test]
fn a_causal_mask() {
    for case in [few(129, 129, 2, 64), many(150, 150, 1, 64), many(129, 129, 1, 128)] {
        check(Case { mask: Mask::Causal, ..case });
    }
    check_fast(Case { mask: Mask::Causal, ..few(77, 77, 12, 64) }, 1);
}

#[test]
fn buckets_of_t5() {
    for case in [few(70, 70, 2, 64), few(9, 150, 1, 64), many(150, 20, 1, 64), many(130, 140, 1, 128)] {
        check(Case { mask: BUCKETS, scale: 1.0, inputs: Inputs::Normal(0.3), ..case });
    }
    // Beyond the largest distance on both sides.
    check_fast(Case { mask: BUCKETS, scale: 1.0, inputs: Inputs::Normal(0.3), ..few(512, 512, 1, 64) }, 1);
    check(Case { mask: Mask::Buckets { buckets: 8, max_distance: 20 }, ..few(65, 80, 2, 64) });
}

#[test]
fn a_peaky_softmax() {
    for case in [few(64, 200, 1, 128), many(100, 200, 1, 64), wide(100, 200, 1)] {
        check(Case { inputs: Inputs::Normal(3.0), ..case });
    }
    for case in every(70, 200) {
        check_fast(Case { inputs: Inputs::Normal(3.0), ..case }, 1);
    }
}

#[test]
fn scores_of_a_thousand() {
    for case in every(100, 200) {
        check_fast(Case { inputs: Inputs::Normal(5.0), scale: 1.0, ..case }, 1);
    }
}

#[test]
fn one_hot_rows_return_their_value() {
    for case in every(200, 200).into_iter().chain([few(130, 130, 2, 64)]) {
        assert_picks_values(&Case { inputs: Inputs::OneHot, scale: 1.0, ..case });
    }
}

#[test]
fn constant_values_come_out() {
    for case in every(100, 300) {
        assert_keeps_constants(&Case { inputs: Inputs::ConstantValues, ..case });
    }
}

#[test]
fn the_order_of_keys_is_nothing() {
    for case in every(100, 300) {
        assert_order_of_keys_is_nothing(&case);
    }
}

/// Inputs as columns of a wider projection, the output as columns of a wider row.
#[test]
fn strided_rows() {
    for gaps in [[0, 0], [8, 8], [40, 96]] {
        check(Case { gaps, ..few(20, 70, 3, 64) });
        check(Case { gaps, ..wide(66, 40, 2) });
    }
}
