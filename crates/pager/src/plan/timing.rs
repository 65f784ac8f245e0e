use crate::plan::beside::steady_beside;
use crate::plan::filling::Filling;
use crate::plan::goal::{Cycle, Link};
use crate::plan::script::{Piece, Script};
use crate::plan::tape::Tape;
use crate::units::UnitId;

/// Turns until the streams have found their rhythm; more were never needed but by chains of stalls that wander through the cycle.
const TURNS_MAX: usize = 12;

/// The two streams of a run as numbers: when the copies and the launches queued so far are through. Copies do not slow launches down here:
/// [`Beside`](super::beside) is for where they do.
///
/// ```text
/// copy begins = max(copy before ends, visit that used the place ends)
/// visit begins = max(launches before end, its last copy ends)
/// ```
#[derive(Debug)]
pub(crate) struct Clock<'a> {
    link: &'a Link,
    tape: &'a Tape,
    copied: f64,
    computed: f64,
    /// When each visit's lease ended.
    ended: Vec<f64>,
    /// Seconds that launches waited for copies.
    pub(crate) stalled: f64,
    pub(crate) copied_bytes: u64,
    /// What the host does before a copy, and by page what becomes of it there. None: nothing that takes time.
    filling: Option<(Filling, Vec<Kept>)>,
}

/// What becomes of a page in the host's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// It goes through a stage, each time.
    Never,
    /// It is kept once it was copied.
    Later,
    Filled,
}

impl<'a> Clock<'a> {
    pub(crate) const fn new(link: &'a Link, tape: &'a Tape) -> Self {
        Self {
            link,
            tape,
            copied: 0.0,
            computed: 0.0,
            ended: Vec::new(),
            stalled: 0.0,
            copied_bytes: 0,
            filling: None,
        }
    }

    /// Nothing begins before that.
    pub(crate) const fn starting(mut self, at: f64) -> Self {
        (self.copied, self.computed) = (at, at);
        self
    }

    /// With a host that has to bring the bytes first.
    pub(crate) fn filled_by(mut self, filling: Filling, is_again: &[bool]) -> Self {
        let kept = |is_again: &bool| if *is_again { Kept::Later } else { Kept::Never };
        self.filling = Some((filling, is_again.iter().map(kept).collect()));
        self
    }

    /// When the launches of all visits so far are through.
    pub(crate) const fn now(&self) -> f64 {
        self.computed
    }

    /// One visit: its copies, then its launches. `pieces` count their visits from `base`.
    fn visit(&mut self, pieces: &[Piece], base: u64, held_seconds: f64, then_seconds: f64) {
        for piece in pieces {
            let after = usize::try_from(piece.after + base).unwrap_or(usize::MAX);
            let free = after.checked_sub(1).map_or(0.0, |visit| self.ended[visit]);
            let bytes = self.tape.bytes_of(&piece.pages);
            self.copied_bytes += bytes;
            let (from, link) = (self.copied.max(free), self.link);
            self.copied = match &mut self.filling {
                None => from + self.copy_seconds(piece),
                Some((filling, kept))
                    if piece.is_streamed && kept[piece.pages.start as usize] != Kept::Never =>
                {
                    let pages = piece.pages.clone().filter(|page| kept[*page as usize] == Kept::Later);
                    let new = pages.map(|page| self.tape.bytes_of(&(page..page + 1))).sum();
                    kept[piece.pages.start as usize..piece.pages.end as usize].fill(Kept::Filled);
                    let filled = if new > 0 { filling.keep(new) } else { from };
                    from.max(filled) + link.seconds(bytes)
                }
                Some((filling, _)) => filling.stage(bytes, from, |bytes| link.seconds(bytes)),
            };
        }
        let ready = if pieces.is_empty() { self.computed } else { self.computed.max(self.copied) };
        self.stalled += ready - self.computed;
        let ended = ready + held_seconds;
        self.ended.push(ended);
        self.computed = ended + then_seconds;
    }

    /// How long a copy takes the link.
    fn copy_seconds(&self, piece: &Piece) -> f64 {
        self.link.seconds(self.tape.bytes_of(&piece.pages))
    }

    /// A turn whose copies are still to be found out.
    pub(crate) fn turn(&mut self, script: &mut Script, cycle: &Cycle) {
        let mut pieces = Vec::new();
        for visit in &cycle.visits {
            pieces.clear();
            copies_of(script, self.tape, self.ended.len() as u64, visit.unit, &mut pieces);
            self.visit(&pieces, 0, visit.held_seconds, visit.then_seconds);
        }
    }
}

/// What a turn is like when the same turn comes again and again.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Steady {
    pub(crate) seconds: f64,
    pub(crate) stalled_seconds: f64,
    pub(crate) copied_bytes: u64,
}

/// The steady state of one cycle. `script` is where the cycle begins; its residents count as loaded after the first turn.
pub(crate) fn steady(tape: &Tape, link: &Link, script: &Script, cycle: &Cycle) -> Steady {
    if link.slowdown > 0.0 {
        return steady_beside(tape, link, script, cycle);
    }
    let count = cycle.visits.len() as u64;
    let mut clock = Clock::new(link, tape);
    let mut script = script.clone();
    clock.turn(&mut script, cycle);
    // The second turn's copies are those of every later one: what the ring holds after a turn depends on the turn alone.
    let (mut pieces, mut ends) = (Vec::new(), Vec::with_capacity(cycle.visits.len()));
    for (number, visit) in (count..).zip(&cycle.visits) {
        copies_of(&mut script, tape, number, visit.unit, &mut pieces);
        ends.push(pieces.len());
    }
    let copying: f64 = pieces.iter().map(|piece| clock.copy_seconds(piece)).sum();
    let turns = (0..).map(|turn| {
        let (before, stalled, bytes) = (clock.now(), clock.stalled, clock.copied_bytes);
        let mut start = 0;
        for (visit, end) in cycle.visits.iter().zip(&ends) {
            clock.visit(&pieces[start..*end], turn * count, visit.held_seconds, visit.then_seconds);
            start = *end;
        }
        Steady {
            seconds: clock.now() - before,
            stalled_seconds: clock.stalled - stalled,
            copied_bytes: clock.copied_bytes - bytes,
        }
    });
    settled(turns, copying)
}

/// Adds the copies of a unit's visit.
pub(super) fn copies_of(
    script: &mut Script,
    tape: &Tape,
    number: u64,
    unit: UnitId,
    pieces: &mut Vec<Piece>,
) {
    let place = tape.place(unit).unwrap_or(usize::MAX);
    script.visit(number, tape.spans[place].touched.clone(), pieces);
}

/// The first of these turns that is like the one before it, whose copies alone take so many seconds.
pub(super) fn settled(turns: impl Iterator<Item = Steady>, copying: f64) -> Steady {
    let mut last = Steady::default();
    for (turn, now) in turns.take(TURNS_MAX).enumerate() {
        let is_steady = turn > 0 && (now.seconds - last.seconds).abs() <= 1e-9 * now.seconds;
        last = now;
        if is_steady {
            break;
        }
    }
    // Launches that live on what was copied ahead of them are faster than the copies for some turns, but not for ever.
    if copying > last.seconds * (1.0 + 1e-9) {
        last.seconds = copying;
    }
    last
}

#[expect(clippy::cast_precision_loss, reason = "bytes of a cycle are far below 2^52")]
pub(crate) const fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}
