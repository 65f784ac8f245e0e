//! Ids against transformers' own tokenizers: `tokens.json`, which `make_tokens.py` wrote.

use crate::files::{joint, model};
use lighterage_text::{ClipTokenizer, T5Tokenizer};
use serde_json::Value;

fn rows() -> Vec<Value> {
    serde_json::from_str(include_str!("tokens.json")).unwrap()
}

/// The ids of a row, padded again to the full length.
fn expected(row: &Value, name: &str, length: usize, padding: u32) -> Vec<u32> {
    let mut ids: Vec<u32> = serde_json::from_value(row[name].clone()).unwrap();
    ids.resize(length, padding);
    ids
}

fn check_clip(tokenizer: &ClipTokenizer) {
    for row in rows() {
        let text = row["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, 77).unwrap(), expected(&row, "clip", 77, 49407), "{text:?}");
    }
}

#[test]
fn clip_ids_are_those_of_transformers() {
    check_clip(&ClipTokenizer::open(&model("tokenizer")).unwrap());
}

#[test]
fn t5_ids_are_those_of_transformers() {
    let tokenizer = T5Tokenizer::open(&model("tokenizer_2")).unwrap();
    for row in rows() {
        let text = row["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, 512).unwrap(), expected(&row, "t5", 512, 0), "{text:?}");
        assert_eq!(
            tokenizer.encode(text, 16).unwrap(),
            expected(&row, "t5_of_16", 16, 0),
            "{text:?}, cut to 16"
        );
    }
}

#[test]
fn documented_prompt_has_the_documented_ids() {
    let text = "A man, portrait, cinematic";
    let clip = ClipTokenizer::open(&model("tokenizer")).unwrap().encode(text, 10).unwrap();
    assert_eq!(clip, [49406, 320, 786, 267, 5352, 267, 25602, 49407, 49407, 49407]);
    let t5 = T5Tokenizer::open(&model("tokenizer_2")).unwrap().encode(text, 10).unwrap();
    assert_eq!(t5, [71, 388, 6, 7956, 6, 10276, 1225, 1, 0, 0]);
}

fn check_joint(merge: impl Fn(&str) -> Value) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), joint(merge).to_string()).unwrap();
    check_clip(&ClipTokenizer::open(folder.path()).unwrap());
}

#[test]
fn clip_ids_from_one_file_are_the_same() {
    check_joint(|line| line.into());
}

#[test]
fn clip_ids_from_one_file_with_paired_merges_are_the_same() {
    check_joint(|line| line.split(' ').collect());
}
