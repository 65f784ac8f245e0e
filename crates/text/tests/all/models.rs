//! Our two models against those of the `tokenizers` crate: the same ids, whatever the text, for the bundled vocabularies and for small ones drawn at random,
//! where pieces overlap and scores tie.

use std::path::Path;
use std::sync::LazyLock;

use crate::files::{joint, model};
use lighterage_text::{ClipTokenizer, T5Tokenizer};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

/// What the crate's own model makes of a text, without ends and padding.
fn theirs(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec()
}

fn bare(mut tokenizer: Tokenizer) -> Tokenizer {
    tokenizer.with_truncation(None).unwrap().with_padding(None);
    tokenizer
}

/// Text that words, borders and special tokens are in: characters of any script, pieces of the vocabulary, spaces of many kinds.
fn text(words: Vec<String>) -> impl Strategy<Value = String> {
    const SPECIAL: &[&str] =
        &["</s>", "<pad>", "<unk>", "<extra_id_7>", "<|startoftext|>", "<|endoftext|>", "<|end", "</w>"];
    const SPACES: &[&str] =
        &[" ", "  ", "\t", "\n", "\u{a0}", "\u{2009}", "\u{3000}", "\u{200b}", "\u{2581}", "\u{0}"];
    const ODD: &[&str] = &[
        "e\u{301}",
        "ﬁ",
        "ſ",
        "İ",
        "Ⅷ",
        "½",
        "한국어",
        "日本",
        "🤦🏽‍♂️",
        "'s",
        "'LL",
        "don't",
        "x²",
        "\u{feff}",
        "\u{301}",
    ];
    let part = prop_oneof![
        6 => select(words),
        2 => "[a-zA-Z ]{1,12}",
        1 => "\\PC{1,6}",
        1 => "[\\p{L}\\p{N}\\p{P}\\p{M}]{1,4}",
        1 => select(SPECIAL).prop_map(str::to_owned),
        2 => select(SPACES).prop_map(str::to_owned),
        1 => select(ODD).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    prop_oneof![9 => vec(part.clone(), 0..24), 1 => vec(part, 200..600)].prop_map(|parts| parts.concat())
}

/// Some of a vocabulary's pieces, without what marks the ends of words.
fn pieces<'a>(vocabulary: impl Iterator<Item = &'a str>) -> Vec<String> {
    let plain = vocabulary.map(|piece| piece.replace("</w>", "").replace('\u{2581}', " "));
    plain.step_by(7).filter(|piece| !piece.is_empty()).collect()
}

/// The bundled CLIP vocabulary.
struct Clip {
    ours: ClipTokenizer,
    theirs: Tokenizer,
    words: Vec<String>,
}

static CLIP: LazyLock<Clip> = LazyLock::new(|| {
    let file = joint(|line| line.into());
    let vocabulary = file["model"]["vocab"].as_object().unwrap();
    Clip {
        ours: ClipTokenizer::open(&model("tokenizer")).unwrap(),
        theirs: bare(Tokenizer::from_bytes(file.to_string()).unwrap()),
        words: pieces(vocabulary.keys().map(String::as_str)),
    }
});

/// The bundled T5 vocabulary.
struct T5 {
    ours: T5Tokenizer,
    theirs: Tokenizer,
    words: Vec<String>,
}

static T5: LazyLock<T5> = LazyLock::new(|| {
    let path = model("tokenizer_2").join("tokenizer.json");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let vocabulary = file["model"]["vocab"].as_array().unwrap();
    T5 {
        ours: T5Tokenizer::open(&model("tokenizer_2")).unwrap(),
        theirs: bare(Tokenizer::from_file(path).unwrap()),
        words: pieces(vocabulary.iter().map(|piece| piece[0].as_str().unwrap())),
    }
});

/// `ids` without the start, and with the end alone behind it.
fn check_clip(ours: &ClipTokenizer, expected: &[u32], text: &str) -> Result<(), TestCaseError> {
    let ids = ours.encode(text, expected.len() + 2).unwrap();
    prop_assert_eq!(&ids[1..=expected.len()], expected, "{:?}", text);
    Ok(())
}

fn check_t5(ours: &T5Tokenizer, expected: &[u32], text: &str) -> Result<(), TestCaseError> {
    let ids = ours.encode(text, expected.len() + 1).unwrap();
    prop_assert_eq!(&ids[..expected.len()], expected, "{:?}", text);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]

    #[test]
    fn bundled_clip_ids_are_those_of_the_crate(text in text(CLIP.words.clone())) {
        check_clip(&CLIP.ours, &theirs(&CLIP.theirs, &text), &text)?;
    }

    #[test]
    fn bundled_t5_ids_are_those_of_the_crate(text in text(T5.words.clone())) {
        check_t5(&T5.ours, &theirs(&T5.theirs, &text), &text)?;
    }
}

/// Characters of the small vocabularies, of one to four bytes.
const ALPHABET: [&str; 6] = ["a", "b", "c", "é", "日", "😀"];

/// Words of the small alphabet, with a character that is in no vocabulary, and spaces.
fn small_text() -> impl Strategy<Value = String> {
    let word =
        vec(select(&["a", "b", "c", "é", "日", "😀", "x"][..]), 0..14).prop_map(|parts| parts.concat());
    let long = vec(select(&ALPHABET[..]), 300..900).prop_map(|parts| parts.concat());
    vec(prop_oneof![12 => word, 1 => long, 1 => Just("<|endoftext|>".to_owned())], 0..5)
        .prop_map(|words| words.join(" "))
}

/// A byte-pair vocabulary: each merge joins two pieces that there are by then, drawn by two numbers.
fn byte_pairs() -> impl Strategy<Value = Value> {
    vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..40).prop_map(|draws| {
        let mut pieces: Vec<String> = ALPHABET[..5].iter().flat_map(|c| [(*c).to_owned(), format!("{c}</w>")]).collect();
        let mut merges: Vec<String> = Vec::new();
        for (left, right) in draws {
            let (left, right) = (left.get(&pieces).clone(), right.get(&pieces).clone());
            let merge = format!("{left} {right}");
            if left.ends_with("</w>") || merges.contains(&merge) {
                continue;
            }
            merges.push(merge);
            let joined = left + &right;
            if !pieces.contains(&joined) {
                pieces.push(joined);
            }
        }
        pieces.extend(["<|startoftext|>", "<|endoftext|>"].map(str::to_owned));
        let vocabulary: serde_json::Map<String, Value> = pieces.into_iter().zip((0..).map(|id: u32| id.into())).collect();
        let special = ["<|startoftext|>", "<|endoftext|>"].map(|content| {
            json!({"id": vocabulary[content], "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        });
        json!({
            "version": "1.0", "added_tokens": special, "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null,
            "decoder": null,
            "model": {"type": "BPE", "unk_token": "<|endoftext|>", "end_of_word_suffix": "</w>", "vocab": vocabulary, "merges": merges},
        })
    })
}

/// A unigram vocabulary: pieces of up to five characters with scores of few values, so that many ways to divide a word are as good.
fn unigrams() -> impl Strategy<Value = Value> {
    let piece = vec(select(&ALPHABET[..]), 1..5).prop_map(|parts| parts.concat());
    let scored = (piece, (0_i8..8).prop_map(|score| -f64::from(score) / 2.0));
    vec(scored, 1..50).prop_map(|drawn| {
        let mut list: Vec<(String, f64)> = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)].map(|(text, score)| (text.to_owned(), score)).into();
        for (text, score) in drawn {
            if !list.iter().any(|(other, _)| *other == text) {
                list.push((text, score));
            }
        }
        json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null,
            "decoder": null,
            "model": {"type": "Unigram", "unk_id": 2, "vocab": list, "byte_fallback": false},
        })
    })
}

/// A folder with this `tokenizer.json`.
fn folder(file: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
    folder
}

fn crates_own(file: &Value) -> Tokenizer {
    Tokenizer::from_bytes(file.to_string()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn small_byte_pair_ids_are_those_of_the_crate(file in byte_pairs(), texts in vec(small_text(), 1..6)) {
        let folder = folder(&file);
        let (ours, crates) = (ClipTokenizer::open(folder.path()).unwrap(), crates_own(&file));
        for text in texts {
            check_clip(&ours, &theirs(&crates, &text), &text)?;
        }
    }

    #[test]
    fn small_unigram_ids_are_those_of_the_crate(file in unigrams(), texts in vec(small_text(), 1..6)) {
        let folder = folder(&file);
        let (ours, crates) = (T5Tokenizer::open(folder.path()).unwrap(), crates_own(&file));
        for text in texts {
            check_t5(&ours, &theirs(&crates, &text), &text)?;
        }
    }
}

fn refused(
    change: impl FnOnce(&mut Value),
    open: impl Fn(&Path) -> lighterage_text::Result<Vec<u32>>,
    file: &Value,
) -> String {
    let mut file = file.clone();
    change(&mut file["model"]);
    open(folder(&file).path()).expect_err("refused").to_string()
}

#[test]
fn options_that_our_models_lack_are_refused() {
    let file = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "model": {"type": "BPE", "unk_token": "<|endoftext|>", "vocab": {"<|startoftext|>": 0, "<|endoftext|>": 1}, "merges": []},
    });
    let open = |path: &Path| ClipTokenizer::open(path)?.encode("a", 4);
    assert_eq!(open(folder(&file).path()).unwrap(), [0, 1, 1, 1]);
    for (name, value) in [
        ("byte_fallback", json!(true)),
        ("fuse_unk", json!(true)),
        ("ignore_merges", json!(true)),
        ("continuing_subword_prefix", json!("##")),
        ("dropout", json!(0.5)),
    ] {
        let message = refused(|model| model[name] = value.clone(), open, &file);
        assert!(message.contains(&format!("model.{name}")), "{message}");
    }
}
