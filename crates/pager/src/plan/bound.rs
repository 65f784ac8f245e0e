use std::collections::VecDeque;

use crate::plan::goal::{Cycle, Link};
use crate::plan::tape::Tape;
use crate::plan::timing::as_f64;

/// No turn of the cycle takes less, whatever is resident, in whatever order bytes come, with `memory_bytes` for weights.
///
/// A turn takes all of its launches. And for every window of neighbouring visits: when its first visit begins, at most the memory's bytes of the window's units are on
/// the device; the rest crosses the link before its last visit begins, and the last visit and all that are outside of the window take their time after that. The
/// windows go around the end of the cycle.
pub(crate) fn lower_bound(tape: &Tape, link: &Link, cycle: &Cycle, memory_bytes: u64) -> f64 {
    let windows = Windows::new(tape, link, cycle, memory_bytes);
    windows.bound(windows.promising())
}

/// The same by looking at every window.
#[cfg(test)]
pub(crate) fn lower_bound_of_all(tape: &Tape, link: &Link, cycle: &Cycle, memory_bytes: u64) -> f64 {
    Windows::new(tape, link, cycle, memory_bytes).bound(None)
}

/// The windows of a cycle.
struct Windows<'a> {
    tape: &'a Tape,
    link: &'a Link,
    cycle: &'a Cycle,
    memory_bytes: u64,
    /// Seconds of all launches.
    total: f64,
}

impl<'a> Windows<'a> {
    fn new(tape: &'a Tape, link: &'a Link, cycle: &'a Cycle, memory_bytes: u64) -> Self {
        Self { tape, link, cycle, memory_bytes, total: cycle.seconds() }
    }

    /// By the windows that begin with these visits; none: with any.
    fn bound(&self, firsts: Option<Vec<usize>>) -> f64 {
        let firsts = firsts.unwrap_or_else(|| (0..self.cycle.visits.len()).collect());
        let mut seen_in = vec![usize::MAX; self.tape.spans.len()];
        firsts.into_iter().fold(self.total, |bound, first| bound.max(self.longest_from(first, &mut seen_in)))
    }

    /// The bound by the windows that begin with this visit; 0 if all of them fit. In `seen_in` a unit counts once for each first visit, however often it is visited.
    fn longest_from(&self, first: usize, seen_in: &mut [usize]) -> f64 {
        let visits = &self.cycle.visits;
        let (mut bytes, mut inside, mut bound) = (0, 0.0, 0.0_f64);
        for step in 0..visits.len() {
            let visit = &visits[(first + step) % visits.len()];
            let Some(place) = self.tape.place(visit.unit) else { continue };
            if std::mem::replace(&mut seen_in[place], first) != first {
                bytes += self.tape.spans[place].bytes;
            }
            if bytes > self.memory_bytes {
                let crossing = as_f64(bytes - self.memory_bytes) / self.link.bytes_per_second;
                bound = bound.max(crossing + self.total - inside);
            }
            inside += visit.seconds();
        }
        bound
    }

    /// The visits with which the windows begin that may have the largest bound, to be looked at one by one: found by sums from the cycle's beginning, in a time that grows
    /// with the visits and not with their square. None where a unit is visited twice.
    ///
    /// The bound of a window is `(at the end) - (at its beginning)` of two such sums, so its best end is the largest in a range whose borders only move forward.
    fn promising(&self) -> Option<Vec<usize>> {
        let count = self.cycle.visits.len();
        let mut is_seen = vec![false; self.tape.spans.len()];
        let (mut bytes, mut seconds) = (vec![0_u64], vec![0.0]);
        for visit in self.cycle.visits.iter().chain(&self.cycle.visits) {
            let place = self.tape.place(visit.unit)?;
            if bytes.len() <= count && std::mem::replace(&mut is_seen[place], true) {
                return None;
            }
            bytes.push(bytes[bytes.len() - 1] + self.tape.spans[place].bytes);
            seconds.push(seconds[seconds.len() - 1] + visit.seconds());
        }
        let crossing = |bytes: u64| as_f64(bytes) / self.link.bytes_per_second;
        let at_end = |last: usize| crossing(bytes[last + 1]) - seconds[last];
        let (mut ends, mut next) = (VecDeque::new(), 0);
        let mut longest = Vec::with_capacity(count);
        for first in 0..count {
            while next < first + count {
                while ends.back().is_some_and(|end| at_end(*end) <= at_end(next)) {
                    ends.pop_back();
                }
                ends.push_back(next);
                next += 1;
            }
            // What fits is no window; longer ones only have more bytes.
            while ends.front().is_some_and(|end| bytes[end + 1] - bytes[first] <= self.memory_bytes) {
                ends.pop_front();
            }
            longest.push(ends.front().map(|end| at_end(*end) - (crossing(bytes[first]) - seconds[first])));
        }
        let most = longest.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
        // Sums from the beginning round otherwise than sums of windows.
        let least = most - 1e-9 * (self.total + crossing(bytes[count]));
        let is_near = |(first, bound): (usize, &Option<f64>)| {
            bound.is_some_and(|bound| bound >= least).then_some(first)
        };
        Some(longest.iter().enumerate().filter_map(is_near).collect())
    }
}
