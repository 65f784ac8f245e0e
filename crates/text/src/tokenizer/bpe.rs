use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use super::Subwords;
use super::file::Vocabulary;

/// Byte-pair encoding (Sennrich et al. 2016): a word starts as single characters; the pair that was learned first is joined, again and
/// again, leftmost first, until no pair is known.
#[derive(Debug)]
pub(super) struct Bpe<'a> {
    pub(super) vocabulary: Vocabulary<'a>,
    /// `left right` to its rank.
    pub(super) merges: HashMap<&'a str, u32>,
    /// Marks the last character of a word.
    pub(super) suffix: &'a str,
    /// Stands for a character that the vocabulary lacks.
    pub(super) unknown: u32,
}

/// A pair of neighbours that may be joined: rank, start of the left one, end of the right one. The heap gives the lowest first.
type Candidate = Reverse<(u32, usize, usize)>;

impl Bpe<'_> {
    fn rank(&self, word: &str, left: Range<usize>, right: Range<usize>) -> Option<u32> {
        let pair = [&word[left], &word[right]].join(" ");
        self.merges.get(pair.as_str()).copied()
    }
}

impl Subwords for Bpe<'_> {
    fn split(&self, word: &str) -> Vec<u32> {
        let marked = format!("{word}{}", self.suffix);
        let mut symbols = Symbols::new(word, marked.len());
        let mut heap: BinaryHeap<Candidate> = BinaryHeap::new();
        let push = |heap: &mut BinaryHeap<Candidate>, left: Range<usize>, right: Range<usize>| {
            let end = right.end;
            heap.extend(self.rank(&marked, left.clone(), right).map(|rank| Reverse((rank, left.start, end))));
        };
        for start in symbols.starts() {
            let left = symbols.at(start);
            if let Some(right) = symbols.after(start) {
                push(&mut heap, left, right);
            }
        }
        while let Some(Reverse((_, start, end))) = heap.pop() {
            if !symbols.join(start, end) {
                continue;
            }
            if let Some(left) = symbols.before(start) {
                push(&mut heap, left, start..end);
            }
            if let Some(right) = symbols.after(start) {
                push(&mut heap, start..end, right);
            }
        }
        symbols.starts().map(|start| self.id(&marked[symbols.at(start)]).unwrap_or(self.unknown)).collect()
    }

    fn id(&self, piece: &str) -> Option<u32> {
        self.vocabulary.get(piece).copied()
    }

    fn count(&self) -> usize {
        self.vocabulary.len()
    }
}

/// A word cut into symbols, which neighbours can be joined of. Both tables are indexed by byte; 0 is no entry.
struct Symbols {
    /// Where the symbol that starts here ends.
    ends: Vec<usize>,
    /// Where the symbol that ends here starts, plus 1.
    starts: Vec<usize>,
}

impl Symbols {
    /// One symbol for each character; the last one reaches to `bytes`.
    fn new(word: &str, bytes: usize) -> Self {
        let mut symbols = Self { ends: vec![0; bytes + 1], starts: vec![0; bytes + 1] };
        let mut indices = word.char_indices().map(|(index, _)| index).peekable();
        while let Some(start) = indices.next() {
            symbols.set(start, indices.peek().copied().unwrap_or(bytes));
        }
        symbols
    }

    /// Joins two neighbours that fill `start..end`; false if there are no such two (any more).
    fn join(&mut self, start: usize, end: usize) -> bool {
        let middle = self.ends[start];
        if middle == 0 || middle >= end || self.ends[middle] != end {
            return false;
        }
        self.ends[middle] = 0;
        self.starts[middle] = 0;
        self.set(start, end);
        true
    }

    fn set(&mut self, start: usize, end: usize) {
        self.ends[start] = end;
        self.starts[end] = start + 1;
    }

    fn at(&self, start: usize) -> Range<usize> {
        start..self.ends[start]
    }

    fn after(&self, start: usize) -> Option<Range<usize>> {
        let next = self.ends[start];
        (self.ends[next] != 0).then(|| self.at(next))
    }

    fn before(&self, start: usize) -> Option<Range<usize>> {
        self.starts[start].checked_sub(1).map(|before| before..start)
    }

    /// Where symbols start, from the left.
    fn starts(&self) -> impl Iterator<Item = usize> + use<> {
        let starts: Vec<usize> = (0..self.ends.len()).filter(|start| self.ends[*start] != 0).collect();
        starts.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::Text;
    use super::*;

    fn check(word: &str, expected: &[&str]) {
        let pieces = ["a", "b", "c", "c</w>", "b</w>", "ab", "bc</w>", "abab", "ab</w>", "?", "é"];
        let merges = ["a b", "b c</w>", "ab ab", "a b</w>"];
        let vocabulary = pieces.iter().zip(0..).map(|(piece, id)| (Text((*piece).into()), id)).collect();
        let bpe =
            Bpe { vocabulary, merges: merges.into_iter().zip(0..).collect(), suffix: "</w>", unknown: 9 };
        let found: Vec<&str> = bpe.split(word).into_iter().map(|id| pieces[id as usize]).collect();
        assert_eq!(found, expected, "{word}");
    }

    #[test]
    fn pair_learned_first_is_joined_first() {
        check("abc", &["ab", "c</w>"]);
        check("cbc", &["c", "bc</w>"]);
    }

    #[test]
    fn joined_pieces_join_again() {
        check("ababc", &["abab", "c</w>"]);
        check("abab", &["ab", "ab</w>"]);
        check("ababab", &["abab", "ab</w>"]);
    }

    #[test]
    fn single_characters_and_nothing() {
        check("c", &["c</w>"]);
        check("", &[]);
    }

    #[test]
    fn unknown_characters_stand_alone() {
        check("aéxb", &["a", "é", "?", "b</w>"]);
        check("xx", &["?", "?"]);
    }
}
