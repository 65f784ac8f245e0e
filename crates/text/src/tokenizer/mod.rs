use std::path::Path;

use crate::{Error, Result};

/// CLIP's tokenizer (skeleton).
#[derive(Debug)]
pub struct ClipTokenizer;
/// T5's tokenizer (skeleton).
#[derive(Debug)]
pub struct T5Tokenizer;

impl ClipTokenizer {
    /// From a folder.
    pub fn open(_folder: &Path) -> Result<Self> {
        Err(Error::Tokenizer("not yet".to_owned()))
    }
    /// Ids, as many as the tokenizer's `model_max_length` (77): BOS, text, EOS, padding.
    pub fn encode(&self, _text: &str, _length: usize) -> Result<Vec<u32>> {
        Err(Error::Tokenizer("not yet".to_owned()))
    }
}

impl T5Tokenizer {
    /// From a folder.
    pub fn open(_folder: &Path) -> Result<Self> {
        Err(Error::Tokenizer("not yet".to_owned()))
    }
    /// `length` ids: text, EOS, padding.
    pub fn encode(&self, _text: &str, _length: usize) -> Result<Vec<u32>> {
        Err(Error::Tokenizer("not yet".to_owned()))
    }
}
