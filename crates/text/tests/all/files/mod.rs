//! The bundled tokenizers' files.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

pub(crate) fn model(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo/base").join(folder)
}

/// The bundled `vocab.json` and `merges.txt` as one `tokenizer.json`.
pub(crate) fn joint(merge: impl Fn(&str) -> Value) -> Value {
    let read = |name| std::fs::read_to_string(model("tokenizer").join(name)).unwrap();
    let vocabulary: Value = serde_json::from_str(&read("vocab.json")).unwrap();
    let merges: Vec<Value> = read("merges.txt").lines().skip(1).map(merge).collect();
    let word = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    let special = |content: &str, normalized: bool| {
        json!({"id": vocabulary[content], "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": normalized, "special": true})
    };
    json!({
        "version": "1.0",
        "added_tokens": [special("<|startoftext|>", false), special("<|endoftext|>", false)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": word}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
        "post_processor": null,
        "model": {"type": "BPE", "unk_token": "<|endoftext|>", "continuing_subword_prefix": "",
                  "end_of_word_suffix": "</w>", "vocab": vocabulary, "merges": merges},
    })
}
