use std::collections::{BTreeMap, BTreeSet};

/// Which offsets of a range of addresses are free: best fit, the lowest offset among equals, neighbours joined.
///
/// It knows nothing of pages or drivers. So where a request lands depends on the sequence of [`take`](Heap::take) and
/// [`give`](Heap::give) alone.
#[derive(Debug)]
pub(crate) struct Heap {
    /// Start and length of every free range; no two of them touch.
    by_offset: BTreeMap<u64, u64>,
    /// The same ranges as (length, start).
    by_bytes: BTreeSet<(u64, u64)>,
}

impl Heap {
    /// Everything from 0 to `bytes` is free.
    pub(crate) fn new(bytes: u64) -> Self {
        let mut heap = Self { by_offset: BTreeMap::new(), by_bytes: BTreeSet::new() };
        heap.insert(0, bytes);
        heap
    }

    /// Takes the start of the shortest free range that holds `bytes`, which is at least 1.
    pub(crate) fn take(&mut self, bytes: u64) -> Option<u64> {
        let (length, offset) = self.by_bytes.range((bytes, 0)..).next().copied()?;
        self.remove(offset, length);
        self.insert(offset + bytes, length - bytes);
        Some(offset)
    }

    /// Takes `bytes` from `offset` on, if all of them are free.
    pub(crate) fn take_at(&mut self, offset: u64, bytes: u64) -> bool {
        let before = self.by_offset.range(..=offset).next_back().map(|(start, length)| (*start, *length));
        let Some((start, length)) = before.filter(|(start, length)| offset + bytes <= start + length) else {
            return false;
        };
        self.remove(start, length);
        self.insert(start, offset - start);
        self.insert(offset + bytes, start + length - offset - bytes);
        true
    }

    /// Gives a taken range back.
    pub(crate) fn give(&mut self, offset: u64, bytes: u64) {
        let (mut start, mut end) = (offset, offset + bytes);
        let before = self.by_offset.range(..end).next_back().map(|(start, length)| (*start, *length));
        if let Some((before, length)) = before {
            assert!(
                before + length <= offset,
                "range {offset}..{end} given back while free from {before} on"
            );
            if before + length == offset {
                self.remove(before, length);
                start = before;
            }
        }
        if let Some(length) = self.by_offset.get(&end).copied() {
            self.remove(end, length);
            end += length;
        }
        self.insert(start, end - start);
    }

    /// Length of the longest free range.
    pub(crate) fn largest(&self) -> u64 {
        self.by_bytes.last().map_or(0, |(length, _)| *length)
    }

    /// Start and length of every free range, from the lowest on.
    pub(crate) fn free(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.by_offset.iter().map(|(start, length)| (*start, *length))
    }

    fn insert(&mut self, offset: u64, length: u64) {
        if length > 0 {
            self.by_offset.insert(offset, length);
            self.by_bytes.insert((length, offset));
        }
    }

    fn remove(&mut self, offset: u64, length: u64) {
        self.by_offset.remove(&offset);
        self.by_bytes.remove(&(length, offset));
    }
}

#[cfg(test)]
mod tests {
    use lighterage_testkit::Rng;

    use super::*;

    #[test]
    fn shortest_range_wins_then_the_lowest() {
        let mut heap = Heap::new(100);
        let ranges: Vec<u64> =
            [10, 5, 20, 5, 10, 5].into_iter().map(|bytes| heap.take(bytes).unwrap()).collect();
        assert_eq!(ranges, [0, 10, 15, 35, 40, 50]);
        heap.give(0, 10);
        heap.give(15, 20);
        heap.give(40, 10);
        assert_eq!(heap.take(8), Some(0), "two ranges of 10: the lower one");
        assert_eq!(heap.take(10), Some(40), "the other 10 before the 20");
        assert_eq!(heap.take(10), Some(15));
    }

    #[test]
    fn neighbours_are_joined() {
        let mut heap = Heap::new(30);
        let [a, b, c] = [10; 3].map(|bytes| heap.take(bytes).unwrap());
        assert_eq!(heap.take(1), None);
        heap.give(a, 10);
        heap.give(c, 10);
        assert_eq!(heap.largest(), 10);
        heap.give(b, 10);
        assert_eq!(heap.free().collect::<Vec<_>>(), [(0, 30)]);
    }

    #[test]
    #[should_panic(expected = "given back while free")]
    fn a_range_is_not_given_back_twice() {
        let mut heap = Heap::new(30);
        let a = heap.take(10).unwrap();
        heap.give(a, 10);
        heap.give(a, 10);
    }

    /// The plain model: one flag for each offset.
    struct Flags(Vec<bool>);

    impl Flags {
        fn runs(&self) -> Vec<(u64, u64)> {
            let mut runs: Vec<(u64, u64)> = Vec::new();
            for offset in (0_u64..).zip(&self.0).filter(|(_, used)| !**used).map(|(offset, _)| offset) {
                match runs.last_mut() {
                    Some((start, length)) if *start + *length == offset => *length += 1,
                    _ => runs.push((offset, 1)),
                }
            }
            runs
        }

        fn is_free(&self, offset: u64, bytes: u64) -> bool {
            self.runs().iter().any(|(start, length)| *start <= offset && offset + bytes <= start + length)
        }

        fn best_fit(&self, bytes: u64) -> Option<u64> {
            let fits = self.runs().into_iter().filter(|(_, length)| *length >= bytes);
            fits.min_by_key(|(start, length)| (*length, *start)).map(|(start, _)| start)
        }

        fn set(&mut self, offset: u64, bytes: u64, used: bool) {
            let (start, end) = (usize::try_from(offset).unwrap(), usize::try_from(offset + bytes).unwrap());
            assert!(
                self.0[start..end].iter().all(|flag| *flag != used),
                "{offset}..{} overlaps",
                offset + bytes
            );
            self.0[start..end].fill(used);
        }
    }

    #[test]
    fn heap_agrees_with_one_flag_for_each_offset() {
        let mut rng = Rng::from_env(1);
        let bytes_total = 300;
        let (mut heap, mut flags) = (Heap::new(bytes_total), Flags(vec![false; 300]));
        let mut live: Vec<(u64, u64)> = Vec::new();
        let (mut refused, mut found) = (0, 0);
        for _ in 0..4000 {
            if rng.below(6) == 0 {
                let (offset, bytes) = (rng.below(280), 1 + rng.below(20));
                let is_free = flags.is_free(offset, bytes);
                assert_eq!(heap.take_at(offset, bytes), is_free, "{bytes} bytes at {offset}");
                found += u32::from(is_free);
                if is_free {
                    live.push((offset, bytes));
                    flags.set(offset, bytes, true);
                }
            } else if rng.below(5) < 3 {
                let bytes = 1 + rng.below(40);
                let (got, expected) = (heap.take(bytes), flags.best_fit(bytes));
                assert_eq!(got, expected, "{bytes} bytes");
                refused += u32::from(got.is_none());
                live.extend(got.map(|offset| (offset, bytes)));
                if let Some(offset) = got {
                    flags.set(offset, bytes, true);
                }
            } else if !live.is_empty() {
                let index = usize::try_from(rng.below(live.len() as u64)).unwrap();
                let (offset, bytes) = live.swap_remove(index);
                heap.give(offset, bytes);
                flags.set(offset, bytes, false);
            }
            assert_eq!(heap.free().collect::<Vec<_>>(), flags.runs());
            assert_eq!(heap.largest(), flags.runs().iter().map(|run| run.1).max().unwrap_or(0));
        }
        assert!(refused > 100, "the sequence should also fill the heap: {refused} refusals");
        assert!(found > 50, "{found} places were free");
    }
}
