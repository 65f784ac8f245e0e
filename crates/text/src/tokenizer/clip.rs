use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, NormalizerWrapper, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::file::{Source, Special, Text, Token, TokenizerFile, Vocabulary, special};
use super::{Bpe, Splitter, Tokens, fit};
use crate::{Error, Result};

/// What CLIP takes for a word (Radford et al. 2021, `simple_tokenizer.py`).
const WORD: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

const SUFFIX: &str = "</w>";
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// CLIP's tokenizer, from `tokenizer.json` or from `vocab.json` and `merges.txt`: lower-cased byte-pair encoding between a start and an
/// end token, padding.
///
/// It keeps the files' text; the tables are made for each call and gone after it.
///
/// ```no_run
/// use lighterage_text::ClipTokenizer;
/// let ids = ClipTokenizer::open("assets/demo/base/tokenizer".as_ref())?.encode("A man", 5)?;
/// assert_eq!(ids, [49406, 320, 786, 49407, 49407]);
/// # Ok::<(), lighterage_text::Error>(())
/// ```
#[derive(Debug)]
pub struct ClipTokenizer {
    files: Files,
    special: Special,
}

#[derive(Debug)]
enum Files {
    Joint(Source),
    Apart { vocabulary: Source, merges: Source },
}

/// The model of a `tokenizer.json`. Merges are written as `left right` or as `[left, right]`.
#[derive(Deserialize)]
struct Model<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    unk_token: Option<String>,
    end_of_word_suffix: Option<String>,
    continuing_subword_prefix: Option<String>,
    dropout: Option<f64>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(borrow)]
    vocab: Vocabulary<'a>,
    #[serde(borrow)]
    merges: Vec<Merge<'a>>,
}

impl Model<'_> {
    /// The name of an option that is set, changes the ids, and is not what [`Bpe`] does.
    fn unsupported(&self) -> Option<&'static str> {
        let prefix = self.continuing_subword_prefix.as_deref().unwrap_or_default();
        let options = [
            ("continuing_subword_prefix", !prefix.is_empty()),
            ("dropout", self.dropout.is_some_and(|share| share > 0.0)),
            ("byte_fallback", self.byte_fallback),
            ("fuse_unk", self.fuse_unk),
            ("ignore_merges", self.ignore_merges),
        ];
        options.into_iter().find(|(_, is_set)| *is_set).map(|(name, _)| name)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge<'a> {
    #[serde(borrow)]
    Line(Text<'a>),
    Pair(String, String),
}

impl Merge<'_> {
    fn line(self) -> String {
        match self {
            Self::Line(line) => line.0.into_owned(),
            Self::Pair(left, right) => format!("{left} {right}"),
        }
    }
}

impl ClipTokenizer {
    /// Reads a folder's `tokenizer.json`, or else its `vocab.json` and `merges.txt`, and, if it is there, `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`] if neither is there, [`Error::File`] if a file cannot be read.
    pub fn open(folder: &Path) -> Result<Self> {
        Ok(Self { files: Files::find(folder)?, special: special(folder)? })
    }

    /// Exactly `length` ids (at least 2; FLUX uses 77): the start token, the text's, cut where they are too many, the end token, padding.
    ///
    /// # Errors
    /// [`Error::Length`] for a length below 2, [`Error::File`] if the files are not those of a byte-pair encoding.
    pub fn encode(&self, text: &str, length: usize) -> Result<Vec<u32>> {
        Ok(self.tokens(text, length)?.ids)
    }

    /// The same, and how many of the text's tokens were cut off.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn tokens(&self, text: &str, length: usize) -> Result<Tokens> {
        if length < 2 {
            return Err(Error::Length { got: length, longest: usize::MAX });
        }
        match &self.files {
            Files::Joint(source) => self.encode_joint(source, text, length),
            Files::Apart { vocabulary, merges } => self.encode_apart(vocabulary, merges, text, length),
        }
    }

    fn encode_joint(&self, source: &Source, text: &str, length: usize) -> Result<Tokens> {
        let TokenizerFile::<Model<'_>> { added_tokens, normalizer, pre_tokenizer, model } = source.parse()?;
        if let Some(option) = model.unsupported() {
            return Err(
                source.error(format!("model.{option} is set, which is not what CLIP's tokenizers do"))
            );
        }
        let Model { kind, unk_token, end_of_word_suffix, vocab, merges, .. } = model;
        if kind.as_deref().is_some_and(|kind| kind != "BPE") {
            return Err(source.error(format!("model is {:?}, should be \"BPE\"", kind.unwrap_or_default())));
        }
        let lines: Vec<String> = merges.into_iter().map(Merge::line).collect();
        let ends = self.ends(&vocab, source, unk_token.as_deref())?;
        let bpe = Bpe {
            vocabulary: vocab,
            merges: lines.iter().map(String::as_str).zip(0..).collect(),
            suffix: end_of_word_suffix.as_deref().unwrap_or_default(),
            unknown: ends.unknown,
        };
        let splitter = Splitter::new(bpe, normalizer, pre_tokenizer, &added_tokens);
        Ok(ends.around(splitter.ids(text)?, length))
    }

    fn encode_apart(
        &self,
        vocabulary: &Source,
        merges: &Source,
        text: &str,
        length: usize,
    ) -> Result<Tokens> {
        let table: Vocabulary<'_> = vocabulary.parse()?;
        let ends = self.ends(&table, vocabulary, None)?;
        let bpe =
            Bpe { vocabulary: table, merges: lines(&merges.text), suffix: SUFFIX, unknown: ends.unknown };
        let named = [
            (&self.special.bos_token, START),
            (&self.special.eos_token, END),
            (&self.special.pad_token, END),
        ];
        let added = named.map(|(token, default)| AddedToken::from(Token::or(token.as_ref(), default), true));
        let splitter = Splitter::new(bpe, Some(normalizer()?), Some(pre_tokenizer()?), &added);
        Ok(ends.around(splitter.ids(text)?, length))
    }

    /// `unknown` is what the model itself says of characters that it lacks.
    fn ends(&self, vocabulary: &Vocabulary<'_>, source: &Source, unknown: Option<&str>) -> Result<Ends> {
        let id = |token: &str| {
            let missing = || source.error(format!("there is no token {token:?}"));
            vocabulary.get(token).copied().ok_or_else(missing)
        };
        let Special { bos_token, eos_token, pad_token, unk_token } = &self.special;
        Ok(Ends {
            start: id(Token::or(bos_token.as_ref(), START))?,
            end: id(Token::or(eos_token.as_ref(), END))?,
            padding: id(Token::or(pad_token.as_ref(), END))?,
            unknown: id(unknown.unwrap_or(Token::or(unk_token.as_ref(), END)))?,
        })
    }
}

impl Files {
    fn find(folder: &Path) -> Result<Self> {
        if let Some(source) = Source::find(folder, "tokenizer.json")? {
            return Ok(Self::Joint(source));
        }
        match (Source::find(folder, "vocab.json")?, Source::find(folder, "merges.txt")?) {
            (Some(vocabulary), Some(merges)) => Ok(Self::Apart { vocabulary, merges }),
            _ => Err(Error::NoTokenizer {
                folder: folder.to_owned(),
                needs: "tokenizer.json, or vocab.json and merges.txt",
            }),
        }
    }
}

/// The ids that do not come from the text.
struct Ends {
    start: u32,
    end: u32,
    padding: u32,
    unknown: u32,
}

impl Ends {
    fn around(&self, mut ids: Vec<u32>, length: usize) -> Tokens {
        ids.insert(0, self.start);
        fit(ids, length, self.end, self.padding)
    }
}

/// `merges.txt`: one pair a line, best first; the first line may be a comment.
fn lines(text: &str) -> HashMap<&str, u32> {
    let lines = text.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty());
    // Lines of CLIP's file have 11 bytes: the table need not grow, and move, while it is filled.
    let mut ranks = HashMap::with_capacity(text.len() / 10);
    ranks.extend(lines.map(str::trim_end).zip(0..));
    ranks
}

fn normalizer() -> Result<NormalizerWrapper> {
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ").map_err(refused)?;
    Ok(Normalizers::new(vec![NFC.into(), spaces.into(), Lowercase.into()]).into())
}

fn pre_tokenizer() -> Result<PreTokenizerWrapper> {
    let pattern = SplitPattern::Regex(WORD.to_owned());
    let words = Split::new(pattern, SplitDelimiterBehavior::Removed, true).map_err(refused)?;
    let bytes = ByteLevel::new(false, true, true);
    Ok(PreTokenizers::new(vec![words.into(), bytes.into()]).into())
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err calls")]
fn refused(error: tokenizers::Error) -> Error {
    Error::Tokenizer(error.to_string())
}
