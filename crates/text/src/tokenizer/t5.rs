use std::path::Path;

use serde::Deserialize;

use super::file::{Source, Special, Token, TokenizerFile, special};
use super::unigram::Piece;
use super::{Splitter, Subwords, Tokens, Unigram, fit};
use crate::{Error, Result};

/// T5's tokenizer, from `tokenizer.json`: a unigram model, an end token, padding.
///
/// It keeps the file's text; the tables are made for each call and gone after it.
///
/// ```no_run
/// use lighterage_text::T5Tokenizer;
/// let ids = T5Tokenizer::open("assets/demo/base/tokenizer_2".as_ref())?.encode("a man", 8)?;
/// assert_eq!(ids, [3, 9, 388, 1, 0, 0, 0, 0]);
/// # Ok::<(), lighterage_text::Error>(())
/// ```
#[derive(Debug)]
pub struct T5Tokenizer {
    source: Source,
    special: Special,
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    unk_id: Option<u32>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(borrow)]
    vocab: Vec<Piece<'a>>,
}

impl T5Tokenizer {
    /// Reads a folder's `tokenizer.json` and, if it is there, `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`] if there is no `tokenizer.json` (a `spiece.model` alone is not enough), [`Error::File`] if a file cannot be read.
    pub fn open(folder: &Path) -> Result<Self> {
        let Some(source) = Source::find(folder, "tokenizer.json")? else {
            let needs = if folder.join("spiece.model").exists() {
                "tokenizer.json (there is a spiece.model: T5TokenizerFast.from_pretrained(FOLDER).save_pretrained(FOLDER) of Python's transformers \
                 makes one of it)"
            } else {
                "tokenizer.json"
            };
            return Err(Error::NoTokenizer { folder: folder.to_owned(), needs });
        };
        Ok(Self { source, special: special(folder)? })
    }

    /// Exactly `length` ids (at least 1): the text's, cut where they are too many, the end token, padding.
    ///
    /// # Errors
    /// [`Error::Length`] for a length of 0, [`Error::File`] if `tokenizer.json` is not a unigram tokenizer.
    pub fn encode(&self, text: &str, length: usize) -> Result<Vec<u32>> {
        Ok(self.tokens(text, length)?.ids)
    }

    /// The same, and how many of the text's tokens were cut off.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn tokens(&self, text: &str, length: usize) -> Result<Tokens> {
        if length == 0 {
            return Err(Error::Length { got: 0, longest: usize::MAX });
        }
        let TokenizerFile { added_tokens, normalizer, pre_tokenizer, model } = self.source.parse()?;
        let unigram = self.unigram(model)?;
        let end = self.id(&unigram, self.special.eos_token.as_ref(), "</s>")?;
        let padding = self.id(&unigram, self.special.pad_token.as_ref(), "<pad>")?;
        let ids = Splitter::new(unigram, normalizer, pre_tokenizer, &added_tokens).ids(text)?;
        Ok(fit(ids, length, end, padding))
    }

    fn unigram<'a>(&self, model: Model<'a>) -> Result<Unigram<'a>> {
        if model.kind.as_deref().is_some_and(|kind| kind != "Unigram") || model.byte_fallback {
            let (kind, fallback) = (model.kind.unwrap_or_default(), model.byte_fallback);
            return Err(self.source.error(format!(
                "model is {kind:?}, byte_fallback {fallback}; should be \"Unigram\", false"
            )));
        }
        let count = model.vocab.len();
        match model.unk_id {
            Some(unknown) if (unknown as usize) < count => Ok(Unigram::new(model.vocab, unknown)),
            unknown => {
                Err(self.source.error(format!("unk_id is {unknown:?}, should be one of {count} pieces")))
            }
        }
    }

    fn id(&self, unigram: &Unigram<'_>, token: Option<&Token>, default: &str) -> Result<u32> {
        let token = Token::or(token, default);
        unigram.id(token).ok_or_else(|| self.source.error(format!("there is no token {token:?}")))
    }
}
