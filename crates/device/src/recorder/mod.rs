//! What a device did, and when: for traces and reports, never for results.
//!
//! A program asks for it by [`Device::record`](crate::Device::record). From then on the shells put *stamps* into the queues of the streams, before and behind
//! what they queue, and each backend notes when a stream comes to one: `Host` on the stream's thread, `Cuda` by events, `Sim` on its virtual clock. So a span is
//! the time that the work took, not the time that it took to queue it, and a wait is as long as the stream stood still. Ledgers and pools add their counters at the
//! host's time on the same clock.
//!
//! Nothing waits for a stamp, and no work is ordered by one: bits do not depend on whether somebody looks. Without a recorder a shell asks one atomic whether there
//! is one, and that is all.

mod clock;
mod recording;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::clock::Clock;
pub use self::recording::{Counter, Counts, Dependency, Recording, Sample, Span, What};
use crate::{Cost, StreamId, StreamKind};

/// How much is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// Phases and steps: two stamps for each step, however many leases it has. Only while somebody [looks closely](Recorder::look_closely) also leases, their copies
    /// and how long compute streams stood still; for the rest copies are [counted](Recording::counts).
    Summary,
    /// Every lease, copy, wait, kernel and event, and the counters of ledgers and pools.
    #[default]
    Everything,
}

/// The most spans, and the most samples, of one recording: some hundred megabytes. What comes later is counted only.
pub(crate) const ENTRIES_MAX: usize = 4 << 20;

/// Gathers a recording. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    /// Whether [`Detail::Everything`] is asked for. It orders nothing.
    is_everything: AtomicBool,
    /// Whether leases are recorded for now even if not everything is.
    is_close: AtomicBool,
    tally: Tally,
    log: Mutex<Log>,
}

/// Counts that need no lock.
#[derive(Debug, Default)]
struct Tally {
    arrivals: AtomicU64,
    arrived_bytes: AtomicU64,
}

impl Tally {
    fn add(&self, what: What, bytes: u64) {
        if what == What::Arrival {
            self.arrivals.fetch_add(1, Ordering::Relaxed);
            self.arrived_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Counts begin anew.
    fn take(&self) -> Counts {
        Counts {
            arrivals: self.arrivals.swap(0, Ordering::Relaxed),
            arrived_bytes: self.arrived_bytes.swap(0, Ordering::Relaxed),
        }
    }
}

/// When a span has not begun or ended yet.
const NEVER: u64 = u64::MAX;

#[derive(Debug, Default)]
struct Log {
    recording: Recording,
    /// Points of streams where events were recorded.
    points: Vec<Point>,
    /// For each wait the number of the point, as far as it is known.
    waits: Vec<(usize, u64)>,
    /// Numbers go on from recording to recording, so that a stamp of an earlier one is no news.
    first_span: u64,
    first_point: u64,
    /// What each counter said last.
    last: BTreeMap<Counter, u64>,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    stream: StreamId,
    at_ns: u64,
}

/// A span that has begun.
#[derive(Debug)]
#[must_use = "a span that is not ended is not recorded"]
pub struct Open(u64);

/// A moment that a stream is to come to: made by the shells, reported by a backend when it is there.
#[derive(Debug)]
pub struct Stamp {
    recorder: Recorder,
    slot: Slot,
}

#[derive(Clone, Copy, Debug)]
enum Slot {
    Begin(u64),
    End(u64),
    Point(u64),
}

impl Stamp {
    /// The stream is there, now.
    pub fn reach(self) {
        let now = self.now_ns();
        self.reach_at(now);
    }

    /// The stream was there at this time of the recorder's clock.
    pub fn reach_at(self, at_ns: u64) {
        let Self { recorder, slot } = self;
        recorder.log().reach(slot, at_ns);
    }

    /// What time it is on the recorder's clock.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.recorder.now_ns()
    }
}

impl Recorder {
    pub(crate) fn new(clock: Clock, detail: Detail) -> Self {
        let recording = Recording { begin_ns: clock.now_ns(), detail, ..Recording::default() };
        let is_everything = AtomicBool::new(detail == Detail::Everything);
        let (is_close, tally) = (AtomicBool::new(false), Tally::default());
        let log = Mutex::new(Log { recording, ..Log::default() });
        Self(Arc::new(Inner { clock, is_everything, is_close, tally, log }))
    }

    /// How much is recorded.
    #[must_use]
    pub fn detail(&self) -> Detail {
        if self.0.is_everything.load(Ordering::Relaxed) { Detail::Everything } else { Detail::Summary }
    }

    /// Records more, or less, from now on. Ledgers and pools report only where everything was asked for at first.
    ///
    /// ```
    /// # use lighterage_device::{Detail, Device, Host, HostConfig, Ledger};
    /// # let device = Device::new(Host::new(HostConfig::default())?, Ledger::new(1 << 20), Ledger::new(1 << 20));
    /// device.record(Detail::Everything);
    /// let recorder = device.recorder().expect("something is recorded");
    /// recorder.set_detail(Detail::Summary);
    /// assert_eq!(recorder.detail(), Detail::Summary);
    /// # Ok::<(), lighterage_device::Error>(())
    /// ```
    pub fn set_detail(&self, detail: Detail) {
        self.0.is_everything.store(detail == Detail::Everything, Ordering::Relaxed);
        self.log().recording.detail = detail;
    }

    /// What time it is, in nanoseconds.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.0.clock.now_ns()
    }

    /// From now on leases, their copies and waits are recorded too, or no longer: a loop looks closely at one step, whose times stand for the others'.
    pub fn look_closely(&self, is_close: bool) {
        self.0.is_close.store(is_close, Ordering::Relaxed);
    }

    /// Whether leases are recorded one by one, which recorded work that is replayed does not have.
    #[must_use]
    pub fn is_looking(&self) -> bool {
        self.detail() == Detail::Everything || self.0.is_close.load(Ordering::Relaxed)
    }

    /// Copies of weights that were queued as a part of recorded work: they are counted.
    pub fn arrived(&self, arrivals: u64, bytes: u64) {
        self.0.tally.arrivals.fetch_add(arrivals, Ordering::Relaxed);
        self.0.tally.arrived_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A span of the host begins.
    pub fn begin(&self, what: What, name: impl Into<Cow<'static, str>>) -> Option<Open> {
        let now = self.now_ns();
        let mut log = self.log();
        let number = log.open(None, what, (name.into(), Cost::default()))?;
        log.reach(Slot::Begin(number), now);
        Some(Open(number))
    }

    /// It ends.
    pub fn end(&self, open: Option<Open>) {
        let now = self.now_ns();
        if let Some(number) = open.map(|Open(number)| number) {
            self.log().reach(Slot::End(number), now);
        }
    }

    /// A counter has changed.
    pub fn sample(&self, counter: Counter, bytes: u64) {
        if self.detail() == Detail::Everything {
            let at_ns = self.now_ns();
            self.log().sample(Sample { at_ns, counter, bytes });
        }
    }

    /// Gives what was recorded, and begins anew. Spans that have not ended are lost: ask when the streams are idle, by
    /// [`Device::take_recording`](crate::Device::take_recording).
    pub(crate) fn take(&self) -> Recording {
        let now = self.now_ns();
        let counts = self.0.tally.take();
        Recording { counts, ..self.log().take(now) }
    }

    /// Counts what a stream is given to do, recorded or not.
    pub(crate) fn count(&self, what: What, bytes: u64) {
        self.0.tally.add(what, bytes);
    }

    /// A span of a stream, if this recorder wants it: it begins when the stream comes to the stamp.
    pub(crate) fn open(
        &self,
        stream: (StreamId, StreamKind),
        what: What,
        describe: impl FnOnce() -> (Cow<'static, str>, Cost),
    ) -> Option<(Open, Stamp)> {
        if !self.wants(stream.1, what) {
            return None;
        }
        let described = describe();
        let number = self.log().open(Some(stream), what, described)?;
        Some((Open(number), Stamp { recorder: self.clone(), slot: Slot::Begin(number) }))
    }

    pub(crate) fn close(&self, Open(number): Open) -> Stamp {
        Stamp { recorder: self.clone(), slot: Slot::End(number) }
    }

    /// The point of a stream where an event is recorded: its number, for [`depends`](Recorder::depends).
    pub(crate) fn point(&self, stream: StreamId) -> Option<(u64, Stamp)> {
        if self.detail() != Detail::Everything {
            return None;
        }
        let number = self.log().point(stream)?;
        Some((number, Stamp { recorder: self.clone(), slot: Slot::Point(number) }))
    }

    /// The wait that was just opened is for that point.
    pub(crate) fn depends(&self, open: &Open, point: u64) {
        let mut log = self.log();
        if let Some(index) = place(open.0, log.first_span) {
            log.waits.push((index, point));
        }
    }

    fn wants(&self, kind: StreamKind, what: What) -> bool {
        match what {
            _ if self.detail() == Detail::Everything => true,
            What::Phase | What::Step => true,
            What::Lease | What::Arrival => self.0.is_close.load(Ordering::Relaxed),
            What::Wait => kind == StreamKind::Compute && self.0.is_close.load(Ordering::Relaxed),
            _ => false,
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // Whole entries are pushed under the lock: a panic elsewhere does not spoil them.
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn open(
        &mut self,
        stream: Option<(StreamId, StreamKind)>,
        what: What,
        (name, cost): (Cow<'static, str>, Cost),
    ) -> Option<u64> {
        let Recording { streams, spans, dropped, .. } = &mut self.recording;
        if spans.len() >= ENTRIES_MAX {
            *dropped += 1;
            return None;
        }
        if let Some(stream) = stream.filter(|(id, _)| !streams.iter().any(|(known, _)| known == id)) {
            streams.push(stream);
        }
        let stream = stream.map(|(id, _)| id);
        let (bytes, flops) = (whole(cost.bytes), whole(cost.flops));
        spans.push(Span { stream, what, name, bytes, flops, begin_ns: NEVER, end_ns: NEVER });
        Some(self.first_span + spans.len() as u64 - 1)
    }

    fn point(&mut self, stream: StreamId) -> Option<u64> {
        if self.points.len() >= ENTRIES_MAX {
            self.recording.dropped += 1;
            return None;
        }
        self.points.push(Point { stream, at_ns: NEVER });
        Some(self.first_point + self.points.len() as u64 - 1)
    }

    fn reach(&mut self, slot: Slot, at_ns: u64) {
        match slot {
            Slot::Begin(number) => {
                if let Some(span) = self.span(number) {
                    span.begin_ns = at_ns;
                }
            }
            Slot::End(number) => {
                if let Some(span) = self.span(number) {
                    span.end_ns = at_ns;
                }
            }
            Slot::Point(number) => {
                let index = place(number, self.first_point);
                if let Some(point) = index.and_then(|index| self.points.get_mut(index)) {
                    point.at_ns = at_ns;
                }
            }
        }
    }

    fn span(&mut self, number: u64) -> Option<&mut Span> {
        let index = place(number, self.first_span)?;
        self.recording.spans.get_mut(index)
    }

    fn sample(&mut self, sample: Sample) {
        self.last.insert(sample.counter, sample.bytes);
        if self.recording.samples.len() >= ENTRIES_MAX {
            self.recording.dropped += 1;
        } else {
            self.recording.samples.push(sample);
        }
    }

    fn take(&mut self, now_ns: u64) -> Recording {
        let samples = self.last.iter().map(|(counter, bytes)| Sample {
            at_ns: now_ns,
            counter: *counter,
            bytes: *bytes,
        });
        let streams = self.recording.streams.clone();
        let detail = self.recording.detail;
        let next = Recording {
            streams,
            samples: samples.collect(),
            begin_ns: now_ns,
            detail,
            ..Recording::default()
        };
        let mut taken = std::mem::replace(&mut self.recording, next);
        taken.end_ns = now_ns;
        self.first_span += taken.spans.len() as u64;
        let points = std::mem::take(&mut self.points);
        let first_point = self.first_point;
        self.first_point += points.len() as u64;
        let waits = std::mem::take(&mut self.waits);
        let mut places = vec![None; taken.spans.len()];
        let mut kept = 0;
        for (index, span) in taken.spans.iter().enumerate() {
            if is_whole(span) {
                places[index] = Some(kept);
                kept += 1;
            }
        }
        let dependency = |(span, point): (usize, u64)| {
            let wait = places.get(span).copied().flatten()?;
            let Point { stream, at_ns } = *points.get(place(point, first_point)?)?;
            (at_ns != NEVER).then_some(Dependency { from: stream, at_ns, wait })
        };
        taken.dependencies = waits.into_iter().filter_map(dependency).collect();
        taken.spans.retain(is_whole);
        taken
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts below 2^53")]
const fn whole(count: f64) -> u64 {
    count as u64
}

const fn is_whole(span: &Span) -> bool {
    span.begin_ns != NEVER && span.end_ns != NEVER
}

/// Where a numbered entry is, unless it belongs to an earlier recording.
fn place(number: u64, first: u64) -> Option<usize> {
    number.checked_sub(first).and_then(|index| usize::try_from(index).ok())
}
