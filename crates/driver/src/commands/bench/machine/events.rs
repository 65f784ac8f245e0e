//! What the host needs for calls on events.

use std::time::Instant;

use lighterage_device::{Backend, Device, StreamKind};
use serde::Serialize;

use super::super::timing::median;
use super::backlog::Backlog;
use crate::failure::Result;

const ROUNDS: usize = 11;
/// Calls of a round.
const CALLS: u32 = 256;
/// Those while work is pending, which they must not outlast.
const CALLS_PENDING: u32 = 64;

/// Seconds of the host for one call, medians.
#[derive(Debug, Serialize)]
pub(super) struct Events {
    /// On a stream without work.
    pub(super) record_seconds: f64,
    /// Of a complete event.
    pub(super) query_seconds: f64,
    /// Of a stream, for a complete event.
    pub(super) wait_seconds: f64,
    /// The same behind work; null if it ended too early in every round.
    pub(super) record_pending_seconds: Option<f64>,
    pub(super) query_pending_seconds: Option<f64>,
    pub(super) wait_pending_seconds: Option<f64>,
}

pub(super) fn measure<B: Backend>(device: &Device<B>, bytes: u64) -> Result<Events> {
    let backlog = Backlog::new(device, bytes)?;
    let stream = backlog.queue.stream();
    let (other, event) = (device.stream(StreamKind::Copy)?, device.event()?);
    let record = || Ok(stream.record(&event)?);
    let query = || Ok(event.is_complete().map(drop)?);
    let query_pending = || Ok(backlog.done().is_complete().map(drop)?);
    let wait = || Ok(other.wait(&event)?);
    let wait_pending = || Ok(other.wait(backlog.done())?);
    let idle = |call: &dyn Fn() -> Result<()>| -> Result<f64> {
        let mut times = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            stream.synchronize()?;
            other.synchronize()?;
            times.push(seconds_each(CALLS, call)?);
        }
        Ok(median(times))
    };
    let pending = |call: &dyn Fn() -> Result<()>| -> Result<Option<f64>> {
        let mut times = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            backlog.queue()?;
            let seconds = seconds_each(CALLS_PENDING, call)?;
            times.extend(backlog.is_pending()?.then_some(seconds));
            backlog.wait()?;
            other.synchronize()?;
        }
        Ok((!times.is_empty()).then(|| median(times)))
    };
    Ok(Events {
        record_seconds: idle(&record)?,
        query_seconds: idle(&query)?,
        wait_seconds: idle(&wait)?,
        record_pending_seconds: pending(&record)?,
        query_pending_seconds: pending(&query_pending)?,
        wait_pending_seconds: pending(&wait_pending)?,
    })
}

fn seconds_each(calls: u32, call: &dyn Fn() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    (0..calls).try_for_each(|_| call())?;
    Ok(start.elapsed().as_secs_f64() / f64::from(calls))
}
