use std::borrow::{Borrow, Cow};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokenizers::AddedToken;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;

use crate::{Error, Result};

/// A string of a JSON text: borrowed from it unless it has escapes.
#[derive(Debug, PartialEq, Eq, Hash, Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

impl Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Token to id.
pub(super) type Vocabulary<'a> = HashMap<Text<'a>, u32>;

/// A `tokenizer.json`. What it says about truncation, padding and templates is not read: the lengths are the caller's.
#[derive(Debug, Deserialize)]
pub(super) struct TokenizerFile<M> {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    pub(super) normalizer: Option<NormalizerWrapper>,
    pub(super) pre_tokenizer: Option<PreTokenizerWrapper>,
    pub(super) model: M,
}

/// A `tokenizer_config.json`, as far as it matters.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Special {
    pub(super) bos_token: Option<Token>,
    pub(super) eos_token: Option<Token>,
    pub(super) pad_token: Option<Token>,
    pub(super) unk_token: Option<Token>,
}

/// A special token, written as a string or as an object.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Token {
    Plain(String),
    Object { content: String },
}

impl Token {
    pub(super) fn or<'a>(token: Option<&'a Self>, default: &'a str) -> &'a str {
        match token {
            None => default,
            Some(Self::Plain(content) | Self::Object { content }) => content,
        }
    }
}

/// The text of a file with its name, which errors carry.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl Source {
    /// The file's text; `None` if there is no such file.
    pub(super) fn find(folder: &Path, name: &str) -> Result<Option<Self>> {
        let path = folder.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(Self { path, text })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::from(error).within(&path)),
        }
    }

    pub(super) fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_str(&self.text).map_err(|error| Error::from(error).within(&self.path))
    }

    /// An error about this file.
    pub(super) fn error(&self, what: impl Into<String>) -> Error {
        Error::Tokenizer(what.into()).within(&self.path)
    }
}

/// The folder's special tokens; the defaults if it has no `tokenizer_config.json`.
pub(super) fn special(folder: &Path) -> Result<Special> {
    match Source::find(folder, "tokenizer_config.json")? {
        Some(source) => source.parse(),
        None => Ok(Special::default()),
    }
}
