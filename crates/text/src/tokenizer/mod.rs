//! Text to ids.
//!
//! Normalizers, pre-tokenizers and the search for special tokens are those of the `tokenizers` crate. Its two *models* are not used:
//! they make an owned string and several map entries of every piece. With the bundled files they take 95 ms and leave 43 MB of anonymous memory; the tables here
//! borrow the file's text, live for one call, take 20 ms for both, and leave 7 MB (0.22.2, three runs each of `examples/tokenizers.rs`) of a process that draws the demo
//! picture in 154 ms with 12 MB. [`Bpe`] and [`Unigram`] do the same work: `tests/all/models.rs` holds their ids against those of the crate's models, on random
//! text for the bundled vocabularies and for small ones drawn at random, `tests/all/tokens.rs` against those of transformers.

mod bpe;
mod clip;
mod file;
mod split;
mod t5;
mod unigram;

pub use clip::ClipTokenizer;
pub use t5::T5Tokenizer;

use bpe::Bpe;
use split::{Splitter, Subwords};
use unigram::Unigram;

/// A text as an encoder reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// As many as the encoder wants.
    pub ids: Vec<u32>,
    /// Tokens at the text's end for which there was no room.
    pub left_out: usize,
}

/// `ids` of a text, cut or padded to `length` ids, the last of which, before the padding, is `end`.
fn fit(mut ids: Vec<u32>, length: usize, end: u32, padding: u32) -> Tokens {
    let room = length.saturating_sub(1);
    let left_out = ids.len().saturating_sub(room);
    ids.truncate(room);
    ids.push(end);
    ids.resize(length, padding);
    Tokens { ids, left_out }
}

#[cfg(test)]
mod tests {
    use super::{Tokens, fit};

    #[test]
    fn text_is_ended_and_padded() {
        assert_eq!(fit(vec![5, 6], 5, 1, 0), Tokens { ids: vec![5, 6, 1, 0, 0], left_out: 0 });
    }

    #[test]
    fn long_text_keeps_its_end() {
        assert_eq!(fit(vec![5, 6, 7, 8], 3, 1, 0), Tokens { ids: vec![5, 6, 1], left_out: 2 });
        assert_eq!(fit(vec![5, 6], 3, 1, 0), Tokens { ids: vec![5, 6, 1], left_out: 0 });
    }
}
