//! How things are timed here: warmed up, in batches long enough for the clock, the median of several.

use std::time::{Duration, Instant};

use lighterage_device::{Backend, Device, Stream, What};
use serde::Serialize;

use crate::failure::{Failure, Result};

/// Batches of which the median is taken.
pub(super) const BATCHES: usize = 7;
/// What a batch lasts at least: a clock and a wait of some microseconds are then below a thousandth.
const BATCH: Duration = Duration::from_millis(20);
/// Calls of a batch at most, for the queue of the driver.
const CALLS_MAX: u32 = 512;

/// Whose clock says how long a batch took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum TimedBy {
    /// Events of the device before and behind it, so that the host's part does not show.
    #[serde(rename = "stream events")]
    StreamEvents,
    /// The host's, from the first call to the end of the wait.
    #[serde(rename = "host clock")]
    HostClock,
}

impl TimedBy {
    /// Events where the device has such and its work is recorded.
    pub(super) fn of<B: Backend>(device: &Device<B>) -> Self {
        let has_events = device.recorder().is_some() && device.backend().has_timed_events();
        if has_events { Self::StreamEvents } else { Self::HostClock }
    }
}

/// Median seconds of one call of `work`, which queues something on `stream`; the host waits only at the end of each batch.
pub(super) fn seconds<B: Backend>(stream: &Stream<B>, work: impl FnMut(u32) -> Result<()>) -> Result<f64> {
    seconds_of(stream, BATCHES, work)
}

/// As [`seconds`], with so many batches.
pub(super) fn seconds_of<B: Backend>(
    stream: &Stream<B>,
    batches: usize,
    mut work: impl FnMut(u32) -> Result<()>,
) -> Result<f64> {
    let timed_by = TimedBy::of(stream.device());
    let mut batch = |calls: u32| -> Result<f64> {
        stream.synchronize()?;
        drop(stream.device().take_recording());
        let start = Instant::now();
        let open = stream.begin(What::Step, 0, || "batch".into());
        for call in 0..calls {
            work(call)?;
        }
        stream.end(open);
        stream.synchronize()?;
        match timed_by {
            TimedBy::HostClock => Ok(start.elapsed().as_secs_f64()),
            TimedBy::StreamEvents => recorded(stream),
        }
    };
    batch(1)?;
    let wanted = BATCH.as_secs_f64() / batch(1)?.max(1e-7);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
    let calls = wanted.ceil().clamp(1.0, f64::from(CALLS_MAX)) as u32;
    let mut times = Vec::with_capacity(batches);
    for _ in 0..batches {
        times.push(batch(calls)? / f64::from(calls));
    }
    Ok(median(times))
}

/// What the events of the last batch say.
fn recorded<B: Backend>(stream: &Stream<B>) -> Result<f64> {
    let recording = stream.device().take_recording();
    let spans = recording.iter().flat_map(|recording| &recording.spans);
    let mut batches = spans.filter(|span| span.what == What::Step);
    let batch = batches.next().ok_or_else(|| Failure::Refused("events gave no time".to_owned()))?;
    Ok(batch.seconds())
}

/// The middle one.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
