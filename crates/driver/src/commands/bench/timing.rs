//! How things are timed here: warmed up, in batches long enough for the clock, the median of several.

use std::time::{Duration, Instant};

use lighterage_device::{Backend, Stream};

use crate::failure::Result;

/// Batches of which the median is taken.
pub(super) const BATCHES: usize = 7;
/// What a batch lasts at least: a clock and a wait of some microseconds are then below a thousandth.
const BATCH: Duration = Duration::from_millis(20);
/// Calls of a batch at most, for the queue of the driver.
const CALLS_MAX: u32 = 512;

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
    let mut batch = |calls: u32| -> Result<Duration> {
        stream.synchronize()?;
        let start = Instant::now();
        for call in 0..calls {
            work(call)?;
        }
        stream.synchronize()?;
        Ok(start.elapsed())
    };
    batch(1)?;
    let one = batch(1)?.max(Duration::from_nanos(100));
    let wanted = BATCH.as_secs_f64() / one.as_secs_f64();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
    let calls = wanted.ceil().clamp(1.0, f64::from(CALLS_MAX)) as u32;
    let mut times = Vec::with_capacity(batches);
    for _ in 0..batches {
        times.push(batch(calls)?.as_secs_f64() / f64::from(calls));
    }
    Ok(median(times))
}

/// The middle one.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
