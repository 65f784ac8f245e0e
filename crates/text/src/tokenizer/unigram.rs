use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use serde::Deserialize;

use super::Subwords;
use super::file::Text;

/// How much worse than the worst piece an unknown character is: `SentencePiece`'s number.
const UNKNOWN_PENALTY: f64 = 10.0;

/// A unigram language model (Kudo 2018): of all ways to divide a word into pieces the one with the largest sum of scores.
#[derive(Debug)]
pub(super) struct Unigram<'a> {
    pieces: HashMap<Cow<'a, str>, (u32, f64)>,
    /// Bytes of the longest piece.
    longest: usize,
    unknown: u32,
    unknown_score: f64,
}

/// A piece and its score, as `tokenizer.json` lists them.
#[derive(Debug, Deserialize)]
pub(super) struct Piece<'a>(#[serde(borrow)] Text<'a>, f64);

/// The best way to a place in the word.
#[derive(Clone, Copy)]
struct Arrival {
    score: f64,
    start: usize,
    id: u32,
}

impl<'a> Unigram<'a> {
    /// `unknown` stands for what no piece covers.
    pub(super) fn new(list: Vec<Piece<'a>>, unknown: u32) -> Self {
        let longest = list.iter().map(|Piece(text, _)| text.0.len()).max().unwrap_or(0);
        let worst = list.iter().map(|Piece(_, score)| *score).fold(f64::INFINITY, f64::min);
        let pieces = (0..).zip(list).map(|(id, Piece(text, score))| (text.0, (id, score))).collect();
        Self { pieces, longest, unknown, unknown_score: worst - UNKNOWN_PENALTY }
    }

    /// The best arrival at every byte (Viterbi 1967); `None` where no character ends.
    fn arrivals(&self, word: &str) -> Vec<Option<Arrival>> {
        let mut best: Vec<Option<Arrival>> = vec![None; word.len() + 1];
        for (start, character) in word.char_indices() {
            let score =
                if start == 0 { 0.0 } else { best[start].map_or(f64::NEG_INFINITY, |arrival| arrival.score) };
            let single = start + character.len_utf8();
            for (end, (id, piece_score)) in self.prefixes(word, start) {
                improve(&mut best[end], Arrival { score: piece_score + score, start, id });
            }
            if !self.pieces.contains_key(&word[start..single]) {
                improve(
                    &mut best[single],
                    Arrival { score: self.unknown_score + score, start, id: self.unknown },
                );
            }
        }
        best
    }

    /// The pieces that `word[start..]` begins with, shortest first, by their ends.
    fn prefixes(&self, word: &str, start: usize) -> impl Iterator<Item = (usize, (u32, f64))> {
        let last = word.len().min(start + self.longest);
        (start + 1..=last)
            .filter(|end| word.is_char_boundary(*end))
            .filter_map(move |end| Some((end, *self.pieces.get(&word[start..end])?)))
    }
}

impl Subwords for Unigram<'_> {
    /// Unknown characters in a row are one unknown piece.
    fn split(&self, word: &str) -> Vec<u32> {
        let best = self.arrivals(word);
        let mut path: Vec<(u32, Range<usize>)> = Vec::new();
        let mut end = word.len();
        while let Some(Arrival { start, id, .. }) = best[end].filter(|_| end > 0) {
            path.push((id, start..end));
            end = start;
        }
        path.reverse();
        path.dedup_by(|next, before| next.0 == self.unknown && before.0 == self.unknown);
        path.into_iter().map(|(id, _)| id).collect()
    }

    fn id(&self, piece: &str) -> Option<u32> {
        self.pieces.get(piece).map(|(id, _)| *id)
    }

    fn count(&self) -> usize {
        self.pieces.len()
    }
}

fn improve(best: &mut Option<Arrival>, candidate: Arrival) {
    if best.is_none_or(|best| candidate.score > best.score) {
        *best = Some(candidate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(word: &str, expected: &[u32]) {
        let list = [("<unk>", 0.0), ("a", -1.0), ("b", -2.0), ("ab", -2.5), ("bé", -1.0), ("é", -9.0)];
        let list = list.map(|(text, score)| Piece(Text(text.into()), score)).into();
        assert_eq!(Unigram::new(list, 0).split(word), expected, "{word}");
    }

    #[test]
    fn best_sum_wins() {
        check("ab", &[3]);
        check("abé", &[1, 4]);
        check("é", &[5]);
    }

    #[test]
    fn unknown_characters_in_a_row_are_one() {
        check("xya", &[0, 1]);
        check("xaéyy", &[0, 1, 5, 0]);
    }

    #[test]
    fn nothing_is_nothing() {
        check("", &[]);
    }
}
