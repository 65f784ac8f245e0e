//! q, k and v as they come out of the bundled model's blocks late in a run.

use lighterage_kernels::launch::Arch;
use lighterage_kernels::params::AttentionParams;
use lighterage_pipeline::Phase;

use super::case::{Case, IDLE, Inputs, Mask, Tensors, case};
use super::{assert_near, check_tensors};
use crate::bounds::refuses;
use crate::late::{self, Seen};
use crate::runs::{self, Config};

/// The call as the model made it.
fn called(seen: &Seen, arch: Arch, multiprocessors: u32) -> Case {
    let p: AttentionParams = seen.parameters();
    let [queries, keys, heads, head_dim] = [p.queries, p.keys, p.heads, p.head_dim].map(|size| size as usize);
    let mask = match (p.causal, p.buckets) {
        (0, 0) => Mask::None,
        (0, buckets) => Mask::Buckets { buckets: buckets as usize, max_distance: p.max_distance as usize },
        _ => Mask::Causal,
    };
    let case = case([queries, keys], heads, head_dim, arch, multiprocessors);
    Case { mask, inputs: Inputs::Activations, scale: p.scale, ..case }
}

fn check_seen(case: Case, seen: &Seen) {
    if !runs::lacks(case.target) {
        check_tensors(&Tensors::seen(&case, seen), case);
    }
}

/// One run without the race detector.
fn check_fast_seen(case: Case, seen: &Seen) {
    if !runs::lacks(case.target) {
        let tensors = Tensors::seen(&case, seen);
        assert_near(&tensors, &case, &tensors.computed(&case, fast()).0, 1);
    }
}

fn fast() -> Config {
    Config { checks: false, ..Config::default() }
}

/// Two heads of 64 side by side as one of 128, which the model has none of.
fn paired(seen: &Seen, arch: Arch, multiprocessors: u32) -> Case {
    Case { heads: 1, head_dim: 128, scale: 0.0, ..called(seen, arch, multiprocessors) }
}

#[test]
fn of_every_attention_of_the_model() {
    let launches = late::launches("attention_bf16");
    // Both encoders, whose heads of 16 only the plain kernel takes, the blocks of a step, and the decoder.
    let is_plain = |seen: &&&Seen| seen.parameters::<AttentionParams>().head_dim == 16;
    assert_eq!((launches.len(), launches.iter().filter(is_plain).count()), (4, 2));
    for seen in launches {
        for multiprocessors in [IDLE, 1] {
            check_seen(called(seen, Arch::Sm89, multiprocessors), seen);
        }
    }
}

/// Of several tiles of keys, the last with a tail.
#[test]
fn of_many_rows() {
    for seen in steps_of_many_rows() {
        for case in [called(seen, Arch::Sm89, IDLE), called(seen, Arch::Sm89, 1)] {
            check_fast_seen(case, seen);
        }
        for case in [paired(seen, Arch::Sm89, IDLE), paired(seen, Arch::Sm89, 1), paired(seen, Arch::Sm80, 1)]
        {
            check_fast_seen(case, seen);
        }
        let hopper = paired(seen, Arch::Sm90a, IDLE);
        assert_eq!(Tensors::seen(&hopper, seen).images(&hopper), ["attention_sm90a_bf16"]);
        check_fast_seen(hopper, seen);
    }
}

fn steps_of_many_rows() -> impl Iterator<Item = &'static Seen> {
    let launches = late::launches_of_many_rows("attention_bf16");
    let steps = launches.into_iter().filter(|seen| seen.phase == Phase::Denoise);
    steps.inspect(|seen| assert_eq!(seen.parameters::<AttentionParams>().keys, 32 + 17 * 12))
}

/// The bounds see one key of 236 that is left out: what the model attends to is not so evenly spread that they could not.
#[test]
fn a_key_left_out_is_refused() {
    for seen in steps_of_many_rows() {
        let case = called(seen, Arch::Sm89, 1);
        let tensors = Tensors::seen(&case, seen);
        let without_the_last = Case { keys: case.keys - 1, ..case };
        let (got, _) = tensors.computed(&without_the_last, fast());
        assert!(refuses(|| assert_near(&tensors, &case, &got, 1)));
        assert_near(&tensors, &without_the_last, &got, 1);
    }
}
