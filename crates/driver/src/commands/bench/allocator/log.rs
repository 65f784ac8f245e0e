//! What it costs to have a trace ring, and to write down what is in it.

use std::time::Instant;

use lighterage_allocator::{Settings, Tag};
use serde::Serialize;

use super::{DEVICE_BYTES, PAIRS, ROUNDS, allocator, on_compute};
use crate::commands::bench::timing::median;
use crate::failure::Result;

/// Events that are written down.
const EVENTS: usize = 1_000_000;
/// Buffers that are alive meanwhile, of as many sizes.
const ALIVE: usize = 64;

#[derive(Debug, Serialize)]
pub(super) struct Log {
    /// What an event costs the allocation or free that it tells of, beside the same without a ring.
    pub(super) event_nanoseconds: f64,
    pub(super) events: usize,
    /// Copying the books and the events out of the allocator.
    pub(super) snapshot_seconds: f64,
    pub(super) exports: Vec<Export>,
}

#[derive(Debug, Serialize)]
pub(super) struct Export {
    pub(super) format: &'static str,
    pub(super) seconds: f64,
    pub(super) bytes: usize,
}

pub(super) fn measure(settings: &Settings) -> Result<Log> {
    let recording = |events| Settings { trace_events: events, ..settings.clone() };
    let [mut without, mut with] = [Vec::new(), Vec::new()];
    let [quiet, noted] =
        [allocator(DEVICE_BYTES, &recording(0))?, allocator(DEVICE_BYTES, &recording(1 << 16))?];
    let [quiet, noted] = [on_compute(&quiet)?, on_compute(&noted)?];
    // In turns, the first round to warm up.
    for round in 0..=ROUNDS {
        for (on, times) in [(&quiet, &mut without), (&noted, &mut with)] {
            let start = Instant::now();
            for _ in 0..PAIRS {
                on.free(on.allocate(64 << 10, Tag::NONE)?)?;
            }
            times.extend((round > 0).then(|| start.elapsed().as_secs_f64() * 1e9 / f64::from(PAIRS)));
        }
    }
    let event_nanoseconds = (median(with) - median(without)) / 2.0;
    let full = allocator(DEVICE_BYTES, &recording(EVENTS))?;
    let on = on_compute(&full)?;
    let mut alive = Vec::with_capacity(ALIVE);
    for number in 0..EVENTS / 2 {
        if alive.len() == ALIVE {
            on.free(alive.swap_remove(number % ALIVE))?;
        }
        alive.push(on.allocate((number % ALIVE + 1) as u64 * 40_000, Tag::NONE)?);
    }
    alive.into_iter().try_for_each(|handle| on.free(handle))?;
    let (snapshot_seconds, snapshot) = timed(|| full.snapshot());
    let export = |format, write: &dyn Fn() -> usize| {
        let (seconds, bytes) = timed(write);
        Export { format, seconds, bytes }
    };
    Ok(Log {
        event_nanoseconds,
        events: snapshot.events.len(),
        snapshot_seconds,
        exports: vec![
            export("pickle", &|| snapshot.to_pickle().len()),
            export("json", &|| snapshot.to_json().len()),
            export("rmm csv", &|| snapshot.to_rmm_csv().len()),
        ],
    })
}

fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let made = work();
    (start.elapsed().as_secs_f64(), made)
}
