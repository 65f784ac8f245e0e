//! Turns whose launches are slowed down by the copies that run beside them.
//!
//! No built-in profile has a slowdown, and `bench machine` measures none: it is for who gives [`Link::slowdown`] and `Rates::slowdown` for a card where it is known.

use std::collections::VecDeque;

use super::goal::{Cycle, Link};
use super::script::{Piece, Script};
use super::tape::Tape;
use super::timing::{Steady, copies_of, settled};

/// The two streams of a run as numbers, as [`Clock`](super::timing::Clock) has them, but for one thing: a launch takes longer by the link's slowdown while a copy runs. So copies are
/// gone through as far ahead of the launches as nothing holds them back.
#[derive(Debug)]
struct Beside<'a> {
    link: &'a Link,
    tape: &'a Tape,
    /// Copies that have not begun, in order: of which visit, what, and how many visits are over when it begins.
    waiting: VecDeque<(usize, Piece)>,
    copied: f64,
    computed: f64,
    /// By visit: when its last copy ended, if it had any.
    arrived: Vec<Option<f64>>,
    /// By visit: when its lease ended.
    ended: Vec<f64>,
    /// When copies ran, or will, that launches to come may meet.
    copying: VecDeque<(f64, f64)>,
    stalled: f64,
}

impl<'a> Beside<'a> {
    const fn new(link: &'a Link, tape: &'a Tape) -> Self {
        Self {
            link,
            tape,
            waiting: VecDeque::new(),
            copied: 0.0,
            computed: 0.0,
            arrived: Vec::new(),
            ended: Vec::new(),
            copying: VecDeque::new(),
            stalled: 0.0,
        }
    }

    /// The copies of the visit behind all that were announced before; they count their visits from `base`.
    fn announce(&mut self, pieces: &[Piece], base: u64) {
        let visit = self.arrived.len();
        self.arrived.push(None);
        let moved = |piece: &Piece| (visit, Piece { after: piece.after + base, ..piece.clone() });
        self.waiting.extend(pieces.iter().map(moved));
    }

    /// Goes through all copies that wait for no visit that is not over.
    fn copy_ahead(&mut self) {
        while let Some((visit, piece)) = self.waiting.front() {
            let after = usize::try_from(piece.after).unwrap_or(usize::MAX);
            let Some(free) = after.checked_sub(1).map_or(Some(0.0), |over| self.ended.get(over).copied())
            else {
                return;
            };
            let begin = self.copied.max(free);
            self.copied = begin + self.link.seconds(self.tape.bytes_of(&piece.pages));
            self.arrived[*visit] = Some(self.copied);
            match self.copying.back_mut() {
                Some((_, end)) if *end == begin => *end = self.copied,
                _ => self.copying.push_back((begin, self.copied)),
            }
            self.waiting.pop_front();
        }
    }

    /// The next visit.
    fn visit(&mut self, held_seconds: f64, then_seconds: f64) {
        self.copy_ahead();
        let ready =
            self.arrived[self.ended.len()].map_or(self.computed, |arrived| self.computed.max(arrived));
        self.stalled += ready - self.computed;
        self.computed = ready;
        self.launch(held_seconds);
        self.ended.push(self.computed);
        // Copies that waited for the end of this lease may run beside what follows it.
        self.copy_ahead();
        self.launch(then_seconds);
    }

    fn launch(&mut self, seconds: f64) {
        let (mut left, factor) = (seconds, 1.0 + self.link.slowdown);
        while left > 0.0 {
            let (until, factor) = match self.copying.front() {
                Some((_, end)) if *end <= self.computed => {
                    self.copying.pop_front();
                    continue;
                }
                Some((begin, end)) if *begin <= self.computed => (*end, factor),
                Some((begin, _)) => (*begin, 1.0),
                None => (f64::INFINITY, 1.0),
            };
            let possible = (until - self.computed) / factor;
            if left <= possible {
                self.computed += left * factor;
                return;
            }
            left -= possible;
            self.computed = until;
        }
    }
}

/// The steady state of one cycle, as [`steady`](super::timing::steady), where copies slow launches down.
pub(super) fn steady_beside(tape: &Tape, link: &Link, script: &Script, cycle: &Cycle) -> Steady {
    let (mut script, count) = (script.clone(), cycle.visits.len() as u64);
    let mut run = Beside::new(link, tape);
    // Of the first turn, which loads residents, and of the second, whose copies are those of every later one.
    let mut pieces_of = |number: u64, unit| {
        let mut pieces = Vec::new();
        copies_of(&mut script, tape, number, unit, &mut pieces);
        pieces
    };
    for (number, visit) in (0..).zip(&cycle.visits) {
        run.announce(&pieces_of(number, visit.unit), 0);
    }
    let again: Vec<Vec<Piece>> =
        (count..).zip(&cycle.visits).map(|(number, visit)| pieces_of(number, visit.unit)).collect();
    let copies = || again.iter().flatten().map(|piece| tape.bytes_of(&piece.pages));
    let (copied_bytes, copying) = (copies().sum(), copies().map(|bytes| link.seconds(bytes)).sum::<f64>());
    let turns = (0..).map(|turn| {
        again.iter().for_each(|pieces| run.announce(pieces, turn * count));
        let (before, stalled) = (run.computed, run.stalled);
        cycle.visits.iter().for_each(|visit| run.visit(visit.held_seconds, visit.then_seconds));
        Steady { seconds: run.computed - before, stalled_seconds: run.stalled - stalled, copied_bytes }
    });
    // The first turn is the one that loads.
    settled(turns.skip(1), copying)
}
