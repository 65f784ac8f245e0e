use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::unigram::UnigramTrainer;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{AddedToken, Model, Token, TokenizerImpl};

use crate::{Error, Result};

/// Divides a word into the pieces of a vocabulary.
pub(super) trait Subwords: fmt::Debug + Send + Sync {
    /// The ids of a word's pieces.
    fn split(&self, word: &str) -> Vec<u32>;

    /// The id of a piece.
    fn id(&self, piece: &str) -> Option<u32>;

    /// How many pieces there are.
    fn count(&self) -> usize;
}

/// Everything around the pieces: special tokens in the text, normalizer, pre-tokenizer.
#[derive(Debug)]
pub(super) struct Splitter<S: Subwords> {
    inner: TokenizerImpl<
        Pieces<S>,
        NormalizerWrapper,
        PreTokenizerWrapper,
        // Never set: the caller adds the ends and the padding.
        PostProcessorWrapper,
        DecoderWrapper,
    >,
}

impl<S: Subwords> Splitter<S> {
    pub(super) fn new(
        subwords: S,
        normalizer: Option<NormalizerWrapper>,
        pre_tokenizer: Option<PreTokenizerWrapper>,
        added: &[AddedToken],
    ) -> Self {
        let mut inner = TokenizerImpl::new(Pieces(subwords));
        inner.with_normalizer(normalizer).with_pre_tokenizer(pre_tokenizer);
        inner.add_tokens(added);
        Self { inner }
    }

    /// The ids of a text.
    pub(super) fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let encoding =
            self.inner.encode_fast(text, false).map_err(|error| Error::Tokenizer(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }
}

/// What the `tokenizers` crate needs a model to be. Of these methods it calls three to split text; the others are for saving and
/// training, which this crate does not do.
#[derive(Debug)]
struct Pieces<S>(S);

impl<S: Subwords> Model for Pieces<S> {
    type Trainer = UnigramTrainer;

    fn tokenize(&self, word: &str) -> tokenizers::Result<Vec<Token>> {
        // Values and offsets are for callers who map ids back to text.
        Ok(self.0.split(word).into_iter().map(|id| Token::new(id, String::new(), (0, 0))).collect())
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.id(token)
    }

    fn id_to_token(&self, _: u32) -> Option<String> {
        None
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        HashMap::new()
    }

    fn get_vocab_size(&self) -> usize {
        self.0.count()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("a tokenizer that only reads".into())
    }

    fn get_trainer(&self) -> Self::Trainer {
        UnigramTrainer::default()
    }
}
