//! Bad input gives one error with its numbers, before anything runs.

use crate::common::{Plain, clip_config, ids, open, plain, t5_config, written};
use lighterage_pager::Units;
use lighterage_shape::DType;
use lighterage_testkit::folder;
use lighterage_text::clip::{Clip, Config};
use lighterage_text::{ClipTokenizer, T5Tokenizer, t5::T5};

fn check_clip(ids: &[u32], expected: &str) {
    let weights = open(&folder("clip-tiny").join("model.safetensors"));
    let made = Clip::new(clip_config("clip-tiny"), &weights, DType::F32, ids, &mut Units::default());
    let error = made.unwrap_err().to_string();
    assert!(error.contains(expected), "{error:?} lacks {expected:?}");
}

/// T5 from the golden checkpoint, changed.
fn check_t5(ids: &[u32], change: impl Fn(&mut Vec<Plain>), expected: &str) {
    let mut tensors = plain(&open(&folder("t5-tiny").join("model.safetensors")));
    change(&mut tensors);
    let (_folder, weights) = written(&tensors);
    let made = T5::new(t5_config("t5-tiny"), &weights, DType::F32, ids, &mut Units::default());
    let error = made.unwrap_err().to_string();
    assert!(error.contains(expected), "{error:?} lacks {expected:?}");
}

#[test]
fn id_beyond_the_vocabulary_is_named_with_its_size() {
    check_clip(&[1, 300], "token id 300 at position 1 is not in the vocabulary of 300");
    check_t5(
        &[5, 4, u32::MAX],
        |_| (),
        "token id 4294967295 at position 2 is not in the vocabulary of 300 (shared.weight)",
    );
}

#[test]
fn no_ids_and_too_many_are_refused() {
    check_clip(&[], "0 tokens, should be 1 to 24");
    check_clip(&[1; 25], "25 tokens, should be 1 to 24");
    check_t5(&[], |_| (), "0 tokens");
}

#[test]
fn missing_tensor_is_named() {
    let name = "encoder.block.1.layer.0.SelfAttention.k.weight";
    check_t5(&ids("t5-tiny"), |tensors| tensors.retain(|tensor| tensor.name != name), name);
}

/// A configuration that forgets a layer makes another model, in silence.
#[test]
fn layers_behind_the_last_one_are_refused() {
    let layers = t5_config("t5-tiny").num_layers;
    let more = format!("encoder.block.{layers}.layer.0.layer_norm.weight");
    let add = |tensors: &mut Vec<Plain>| {
        let first =
            tensors.iter().position(|tensor| tensor.name.ends_with("block.0.layer.0.layer_norm.weight"));
        tensors.push(Plain { name: more.clone(), ..tensors[first.unwrap()].clone() });
    };
    check_t5(
        &ids("t5-tiny"),
        add,
        &format!("num_layers is {layers}, and tensor {more:?} belongs to one more"),
    );
    let weights = open(&folder("clip-tiny").join("model.safetensors"));
    let config = clip_config("clip-tiny");
    let num_hidden_layers = config.num_hidden_layers - 1;
    let config = Config { num_hidden_layers, ..config };
    let made = Clip::new(config, &weights, DType::F32, &[1], &mut Units::default());
    let error = made.unwrap_err().to_string();
    assert!(error.contains(&format!("num_hidden_layers is {num_hidden_layers}")), "{error}");
    assert!(error.contains(&format!("encoder.layers.{num_hidden_layers}.")), "{error}");
}

#[test]
fn tensor_with_more_rows_than_the_model_has_is_refused() {
    // A stack of rows would silently take the first of them.
    let name = "encoder.block.0.layer.0.SelfAttention.q.weight";
    let grow = |tensors: &mut Vec<Plain>| {
        let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).unwrap();
        tensor.bytes.extend_from_within(..);
        tensor.shape[0] *= 2;
    };
    check_t5(&ids("t5-tiny"), grow, "should be [64, 64], is [128, 64]");
}

fn check_tokenizers(files: &[(&str, &str)], clip: &str, t5: &str) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let found =
        ClipTokenizer::open(folder.path()).and_then(|tokenizer| tokenizer.encode("a", 77)).unwrap_err();
    assert!(found.to_string().contains(clip), "clip: {found}");
    let found = T5Tokenizer::open(folder.path()).and_then(|tokenizer| tokenizer.encode("a", 77)).unwrap_err();
    assert!(found.to_string().contains(t5), "t5: {found}");
}

#[test]
fn missing_tokenizer_files_are_named() {
    check_tokenizers(&[], "needs tokenizer.json, or vocab.json and merges.txt", "needs tokenizer.json");
    check_tokenizers(
        &[("vocab.json", "{}"), ("spiece.model", "")],
        "vocab.json and merges.txt",
        "there is a spiece.model",
    );
}

#[test]
fn broken_tokenizer_files_are_named() {
    check_tokenizers(&[("tokenizer.json", "{\"model\": 3")], "tokenizer.json: ", "tokenizer.json: ");
    let empty = r#"{"model": {"type": "WordLevel", "vocab": [], "merges": []}}"#;
    check_tokenizers(&[("tokenizer.json", empty)], "tokenizer.json: ", "model is \"WordLevel\"");
    let lacking = r#"{"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]]}}"#;
    check_tokenizers(&[("tokenizer.json", lacking)], "tokenizer.json: ", "there is no token \"</s>\"");
    let unknown = r#"{"model": {"type": "Unigram", "unk_id": 1, "vocab": [["<unk>", 0.0]]}}"#;
    check_tokenizers(
        &[("tokenizer.json", unknown)],
        "tokenizer.json: ",
        "unk_id is Some(1), should be one of 1 pieces",
    );
}

#[test]
fn lengths_without_room_for_the_ends_are_refused() {
    let base = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo/base");
    assert!(ClipTokenizer::open(&base.join("tokenizer")).unwrap().encode("a", 1).is_err());
    assert!(T5Tokenizer::open(&base.join("tokenizer_2")).unwrap().encode("a", 0).is_err());
}
