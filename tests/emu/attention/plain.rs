//! `attention_plain.cu`: odd head dims, odd strides, every mask.

use lighterage_kernels::launch::Arch;

use super::case::{Case, IDLE, Inputs, Mask, Tensors, case};
use super::{
    assert_images, assert_keeps_constants, assert_order_of_keys_is_nothing, assert_picks_values, check,
    check_fast,
};
use crate::numerics::{FLUX_ROWS, SIZES};

const fn plain(queries: usize, keys: usize, heads: usize, head_dim: usize) -> Case {
    case([queries, keys], heads, head_dim, Arch::Sm86, IDLE)
}

#[test]
fn every_head_dim() {
    for head_dim in [1, 2, 7, 16, 32, 33, 40, 65, 72] {
        assert_images(&plain(9, 40, 2, head_dim), &["attention_plain_bf16"]);
        check(plain(9, 40, 2, head_dim));
    }
    check_fast(plain(9, 40, 1, 512), 1);
    check_fast(plain(9, 40, 1, 2000), 1);
}

#[test]
fn sizes_around_blocks() {
    for size in [1, 2, 15, 16, 17, 31, 32, 33] {
        check(plain(size, size, 1, 16));
    }
    for size in [127, 128, 129, 512] {
        check_fast(plain(size, size, 1, 16), 1);
    }
}

#[test]
fn sizes_of_either_side() {
    for size in SIZES {
        check_fast(plain(size, 9, 1, 16), 1);
        check_fast(plain(9, size, 1, 40), 1);
    }
}

/// As many keys as FLUX has.
#[test]
fn keys_of_a_flux_image() {
    check_fast(plain(9, FLUX_ROWS, 1, 16), 1);
}

/// CLIP's 77 tokens, and what the encoders of a small model have.
#[test]
fn a_causal_mask() {
    check(Case { mask: Mask::Causal, ..plain(77, 77, 2, 16) });
}

#[test]
fn buckets_of_t5() {
    let buckets = |buckets, max_distance, case| Case {
        mask: Mask::Buckets { buckets, max_distance },
        scale: 1.0,
        inputs: Inputs::Normal(0.5),
        ..case
    };
    check(buckets(32, 128, plain(40, 40, 2, 16)));
    check(buckets(8, 20, plain(40, 60, 2, 16)));
    check(buckets(11, 20, plain(40, 60, 1, 16)));
    // More distances than shared memory keeps.
    check_fast(buckets(32, 3000, plain(4, 1500, 1, 16)), 1);
}

/// Head dims of the tensor-core kernels in rows that are off 16 bytes, or with a table that does not fit there.
#[test]
fn rows_that_are_not_aligned() {
    for gaps in [[3, 0], [0, 5], [4, 24]] {
        let case = Case { gaps, ..plain(9, 33, 1, 64) };
        assert_images(&case, &["attention_plain_bf16"]);
        check(case);
    }
    let table = Mask::Buckets { buckets: 32, max_distance: 50_000 };
    let many_keys = Case { mask: table, ..plain(3, 12_000, 1, 128) };
    assert_images(&many_keys, &["attention_plain_bf16"]);
}

#[test]
fn peaky_and_large_scores() {
    check(Case { inputs: Inputs::Normal(3.0), ..plain(9, 100, 1, 40) });
    check(Case { inputs: Inputs::Normal(5.0), scale: 1.0, ..plain(9, 100, 1, 40) });
}

#[test]
fn one_hot_rows_return_their_value() {
    assert_picks_values(&Case { inputs: Inputs::OneHot, scale: 1.0, ..plain(100, 100, 2, 16) });
}

#[test]
fn constant_values_and_the_order_of_keys() {
    assert_keeps_constants(&Case { inputs: Inputs::ConstantValues, ..plain(20, 300, 1, 32) });
    assert_order_of_keys_is_nothing(&plain(20, 300, 1, 32));
}

#[test]
fn each_output_is_written_once() {
    let case = plain(13, 20, 2, 40);
    if let (_, Some(report)) = Tensors::of(&case).computed(&case, crate::runs::Config::default()) {
        assert_eq!(report.global_bytes_written, 13 * 2 * 40 * 2);
    }
}

/// A factor that is not positive would turn the tensor-core kernels' mask over.
#[test]
fn a_negative_factor_on_the_scores() {
    for arch in [Arch::Sm86, Arch::Sm90a] {
        let case = Case { scale: -0.1, ..case([9, 100], 1, 128, arch, IDLE) };
        assert_images(&case, &["attention_plain_bf16"]);
        check_fast(case, 1);
    }
}
