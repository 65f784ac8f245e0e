use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Clock, Stamp};

/// What a piece of work occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    /// Multiprocessors and device memory: kernels, and copies and fills on the device.
    Compute,
    /// The link, from the host.
    ToDevice,
    /// The link, to the host.
    ToHost,
}

/// A point in a stream's work: so many records were queued on that stream when it was set. Streams are in order, so a count names the point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) stream: usize,
    pub(super) records: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Run {
        engine: Engine,
        seconds: f64,
    },
    Record,
    Wait(Point),
    /// Raises a flag.
    Raise(usize),
    /// Waits for a flag, and lowers it.
    Take(usize),
    /// The next of the queue's stamps.
    Stamp,
}

#[derive(Debug, Default)]
struct Queue {
    work: VecDeque<Work>,
    /// What is being done: the engine, and the seconds that are left of it if it had the engine for itself.
    current: Option<(Engine, f64)>,
    recorded: u64,
    reached: u64,
    stamps: VecDeque<Stamp>,
    /// What is queued while it is recorded instead of done.
    recording: Option<Vec<Work>>,
}

impl Queue {
    fn push(&mut self, work: Work) {
        match &mut self.recording {
            Some(recorded) => recorded.push(work),
            None => self.work.push_back(work),
        }
    }

    fn is_drained(&self) -> bool {
        self.current.is_none() && self.work.is_empty()
    }
}

/// Virtual time: one clock of the host, and what the streams do meanwhile.
///
/// Work that is queued at a time of the host starts no sooner than that. Everything that can happen up to the host's time is known, so the streams are always
/// worked off up to there and no further; only a host that waits lets them run ahead, and then nobody queues. So no event is ever taken back.
///
/// Work on one engine at the same time shares it evenly; a copy over the link slows kernels down by `slowdown`.
#[derive(Debug)]
pub(super) struct Timeline {
    slowdown: f64,
    /// The host's clock, in seconds; streams are worked off up to here.
    now: f64,
    /// The same in nanoseconds, for who records.
    shown: Arc<AtomicU64>,
    streams: Vec<Queue>,
    /// Whether each flag is raised; none: nobody waits for it any more.
    flags: Vec<Option<bool>>,
}

impl Timeline {
    pub(super) fn new(slowdown: f64) -> Self {
        Self { slowdown, now: 0.0, shown: Arc::default(), streams: Vec::new(), flags: Vec::new() }
    }

    pub(super) const fn now(&self) -> f64 {
        self.now
    }

    pub(super) fn add_stream(&mut self) -> usize {
        self.streams.push(Queue::default());
        self.streams.len() - 1
    }

    /// The host is busy for so long.
    pub(super) fn spend(&mut self, seconds: f64) {
        let until = self.now + seconds;
        while self.work_off(Some(until)) {}
        self.now = until;
        self.show();
    }

    pub(super) fn run(&mut self, stream: usize, engine: Engine, seconds: f64) {
        self.streams[stream].push(Work::Run { engine, seconds });
    }

    pub(super) fn record(&mut self, stream: usize) -> Point {
        let queue = &mut self.streams[stream];
        queue.work.push_back(Work::Record);
        queue.recorded += 1;
        Point { stream, records: queue.recorded }
    }

    pub(super) fn wait(&mut self, stream: usize, point: Point) {
        self.streams[stream].work.push_back(Work::Wait(point));
    }

    /// The number of the first of so many flags.
    pub(super) fn add_flags(&mut self, count: usize) -> usize {
        let first = self.flags.len();
        self.flags.resize(first + count, Some(false));
        first
    }

    /// Nobody waits for these flags any more.
    pub(super) fn give_up(&mut self, flags: Range<usize>) {
        self.flags[flags].fill(None);
    }

    pub(super) fn raise(&mut self, stream: usize, flag: usize) {
        self.streams[stream].push(Work::Raise(flag));
    }

    pub(super) fn take(&mut self, stream: usize, flag: usize) {
        self.streams[stream].push(Work::Take(flag));
    }

    /// From now on work of the stream is recorded.
    pub(super) fn begin_graph(&mut self, stream: usize) {
        self.streams[stream].recording = Some(Vec::new());
    }

    pub(super) fn end_graph(&mut self, stream: usize) -> Option<Vec<Work>> {
        self.streams[stream].recording.take()
    }

    pub(super) fn replay(&mut self, stream: usize, graph: &[Work]) {
        self.streams[stream].work.extend(graph);
    }

    /// A flag that a stream waits for.
    pub(super) fn waited_for(&self) -> Option<usize> {
        self.streams.iter().find_map(|queue| match queue.work.front() {
            Some(Work::Take(flag)) if queue.current.is_none() => Some(*flag),
            _ => None,
        })
    }

    pub(super) fn stamp(&mut self, stream: usize, stamp: Stamp) {
        let queue = &mut self.streams[stream];
        // A graph has no times.
        if queue.recording.is_some() {
            return;
        }
        queue.work.push_back(Work::Stamp);
        queue.stamps.push_back(stamp);
    }

    /// Reaches what nothing holds back any more.
    pub(super) fn settle(&mut self) {
        self.begin();
    }

    /// The host's clock.
    pub(super) fn clock(&self) -> Clock {
        Clock::virtual_by(Arc::clone(&self.shown))
    }

    fn show(&self) {
        self.shown.store(nanoseconds(self.now), Ordering::Relaxed);
    }

    pub(super) fn is_reached(&mut self, point: Point) -> bool {
        self.begin();
        self.has_reached(point)
    }

    /// The host waits for a point. False if it is never reached, because of a flag that nobody raises.
    #[must_use]
    pub(super) fn wait_for(&mut self, point: Point) -> bool {
        self.run_until(|timeline| timeline.has_reached(point))
    }

    /// The host waits for all work of a stream. False as above.
    #[must_use]
    pub(super) fn drain(&mut self, stream: usize) -> bool {
        self.run_until(|timeline| timeline.streams[stream].is_drained())
    }

    fn run_until(&mut self, is_there: impl Fn(&Self) -> bool) -> bool {
        self.begin();
        while !is_there(self) {
            if !self.work_off(None) {
                assert!(self.waited_for().is_some(), "something is waited for and nothing runs");
                return false;
            }
        }
        self.show();
        true
    }

    fn has_reached(&self, point: Point) -> bool {
        point.records == 0 || self.streams[point.stream].reached >= point.records
    }

    /// Goes on to the next end of some work, or to `until` if that comes first. False if it came first, or nothing runs.
    fn work_off(&mut self, until: Option<f64>) -> bool {
        self.begin();
        let rates = self.rates();
        let active = self.streams.iter().filter_map(|queue| queue.current);
        let next = active.map(|(engine, left)| left / rates[engine as usize]).reduce(f64::min);
        let limit = until.map(|until| until - self.now);
        let (Some(step), is_end) = (match (next, limit) {
            (Some(next), Some(limit)) if next > limit => (Some(limit), false),
            (Some(next), _) => (Some(next), true),
            (None, _) => (None, false),
        }) else {
            return false;
        };
        for queue in &mut self.streams {
            if let Some((engine, left)) = &mut queue.current {
                let rate = rates[*engine as usize];
                *left -= step * rate;
                // The one that ends first ends exactly; a rounding error of another is no work either.
                if is_end && *left <= step * rate * 1e-12 {
                    queue.current = None;
                }
            }
        }
        self.now += step;
        self.begin();
        is_end
    }

    /// How fast each engine's work goes on beside what runs now, as a share of what it would alone.
    fn rates(&self) -> [f64; 3] {
        let mut counts = [0.0_f64; 3];
        for (engine, _) in self.streams.iter().filter_map(|queue| queue.current) {
            counts[engine as usize] += 1.0;
        }
        let is_copying = counts[Engine::ToDevice as usize] + counts[Engine::ToHost as usize] > 0.0;
        let slowdown = if is_copying { 1.0 + self.slowdown } else { 1.0 };
        let share = |engine: Engine| 1.0 / counts[engine as usize].max(1.0);
        [share(Engine::Compute) / slowdown, share(Engine::ToDevice), share(Engine::ToHost)]
    }

    /// Starts what can start now.
    fn begin(&mut self) {
        let mut changed = true;
        while changed {
            changed = false;
            for stream in 0..self.streams.len() {
                while self.begin_next(stream) {
                    changed = true;
                }
            }
        }
    }

    /// Takes the next piece of a stream's work, if it can be begun.
    fn begin_next(&mut self, stream: usize) -> bool {
        let queue = &self.streams[stream];
        let Some(work) = queue.work.front().copied().filter(|_| queue.current.is_none()) else {
            return false;
        };
        if let Work::Wait(point) = work
            && !self.has_reached(point)
        {
            return false;
        }
        if let Work::Take(flag) = work {
            match &mut self.flags[flag] {
                Some(false) => return false,
                Some(raised) => *raised = false,
                None => (),
            }
        }
        if let Work::Raise(flag) = work
            && let Some(raised) = &mut self.flags[flag]
        {
            *raised = true;
        }
        let queue = &mut self.streams[stream];
        queue.work.pop_front();
        match work {
            Work::Run { engine, seconds } => queue.current = (seconds > 0.0).then_some((engine, seconds)),
            Work::Record => queue.reached += 1,
            Work::Wait(_) | Work::Raise(_) | Work::Take(_) => (),
            Work::Stamp => {
                if let Some(stamp) = queue.stamps.pop_front() {
                    stamp.reach_at(nanoseconds(self.now));
                }
            }
        }
        true
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a clock that begins at 0 and does not run for centuries"
)]
fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(now: f64, expected: f64) {
        assert!((now - expected).abs() < 1e-9, "{now}, expected {expected}");
    }

    fn two_streams(slowdown: f64) -> (Timeline, usize, usize) {
        let mut timeline = Timeline::new(slowdown);
        let (a, b) = (timeline.add_stream(), timeline.add_stream());
        (timeline, a, b)
    }

    #[test]
    fn a_stream_is_in_order_and_the_host_goes_on() {
        let (mut timeline, a, _) = two_streams(0.0);
        timeline.run(a, Engine::Compute, 1.0);
        timeline.run(a, Engine::Compute, 2.0);
        let point = timeline.record(a);
        timeline.spend(0.5);
        assert!(!timeline.is_reached(point));
        check(timeline.now(), 0.5);
        assert!(timeline.wait_for(point));
        check(timeline.now(), 3.0);
    }

    #[test]
    fn work_starts_no_sooner_than_it_is_queued() {
        let (mut timeline, a, _) = two_streams(0.0);
        timeline.spend(5.0);
        timeline.run(a, Engine::ToDevice, 1.0);
        assert!(timeline.drain(a));
        check(timeline.now(), 6.0);
    }

    #[test]
    fn engines_run_beside_each_other_and_events_order_them() {
        let (mut timeline, a, b) = two_streams(0.0);
        timeline.run(a, Engine::ToDevice, 1.0);
        let arrived = timeline.record(a);
        timeline.run(a, Engine::ToDevice, 1.0);
        timeline.wait(b, arrived);
        timeline.run(b, Engine::Compute, 3.0);
        assert!(timeline.drain(b));
        check(timeline.now(), 4.0);
    }

    #[test]
    fn one_engine_is_shared() {
        let (mut timeline, a, b) = two_streams(0.0);
        timeline.run(a, Engine::ToDevice, 1.0);
        timeline.run(b, Engine::ToDevice, 3.0);
        assert!(timeline.drain(a));
        check(timeline.now(), 2.0);
        assert!(timeline.drain(b));
        check(timeline.now(), 4.0);
    }

    #[test]
    fn copies_slow_kernels_down_while_they_run() {
        let (mut timeline, a, b) = two_streams(0.25);
        timeline.run(a, Engine::ToDevice, 1.0);
        timeline.run(b, Engine::Compute, 2.0);
        // In the first second 0.8 of the kernel are done.
        assert!(timeline.drain(b));
        check(timeline.now(), 2.2);
    }

    #[test]
    fn a_point_that_was_never_set_is_reached() {
        let (mut timeline, a, _) = two_streams(0.0);
        assert!(timeline.is_reached(Point::default()));
        timeline.wait(a, Point::default());
        assert!(timeline.drain(a));
        check(timeline.now(), 0.0);
    }
}
