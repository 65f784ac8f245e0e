//! The spellings that the ecosystem writes mean the same model.

use crate::common::{Plain, bits, clip_config, ids, open, plain, run_clip, run_t5, t5_config, written};
use lighterage_checkpoint::Checkpoint;
use lighterage_shape::DType;
use lighterage_testkit::folder;

fn weights(case: &str) -> Checkpoint {
    open(&folder(case).join("model.safetensors"))
}

/// The checkpoint of a case under other names.
fn renamed(case: &str, rename: impl Fn(&str) -> String) -> Vec<Plain> {
    plain(&weights(case)).into_iter().map(|tensor| Plain { name: rename(&tensor.name), ..tensor }).collect()
}

#[test]
fn clip_with_the_prefix_is_the_same() {
    let case = "clip-tiny";
    let (_folder, prefixed) = written(&renamed(case, |name| format!("text_model.{name}")));
    let run = |weights: &Checkpoint| run_clip(clip_config(case), weights, &ids(case), DType::Bf16, 2);
    let (with, without) = (run(&prefixed), run(&weights(case)));
    assert_eq!((bits(&with.0), bits(&with.1)), (bits(&without.0), bits(&without.1)));
}

#[test]
fn t5_with_the_encoders_own_table_is_the_same() {
    let case = "t5-tiny";
    let (_folder, own) = written(&renamed(case, |name| name.replace("shared.", "encoder.embed_tokens.")));
    let run = |weights: &Checkpoint| bits(&run_t5(t5_config(case), weights, &ids(case), DType::F32, 2));
    assert_eq!(run(&own), run(&weights(case)));
}

#[test]
fn f32_files_give_what_bf16_files_give() {
    let case = "t5-tiny";
    let widened = plain(&weights(case)).into_iter().map(|tensor| {
        let halves = tensor.bytes.chunks_exact(2);
        // A bf16 is the upper half of its f32.
        let bytes = halves.flat_map(|half| [0, 0, half[0], half[1]]).collect();
        Plain { dtype: DType::F32, bytes, ..tensor }
    });
    let (_folder, wide) = written(&widened.collect::<Vec<_>>());
    for dtype in [DType::F32, DType::Bf16] {
        let run = |weights: &Checkpoint| bits(&run_t5(t5_config(case), weights, &ids(case), dtype, 2));
        assert_eq!(run(&wide), run(&weights(case)), "{dtype}");
    }
}
