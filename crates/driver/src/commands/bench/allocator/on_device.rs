//! Traces on a device that is there: what a pass takes with the driver's calls in it.

use std::time::{Duration, Instant};

use lighterage_allocator::{Allocator, Events, Replay, Trace};
use lighterage_device::{Backend, Device};
use serde::Serialize;

use super::{Arguments, MIB, ROUNDS, load, names, percent_over};
use crate::commands::bench::timing;
use crate::device::Work;
use crate::failure::Result;

/// No further pass of a trace begins after so long.
const PASSES: Duration = Duration::from_millis(1500);

#[derive(Debug, Serialize)]
pub(super) struct OnDevice {
    pub(super) device: String,
    pub(super) traces: Vec<Line>,
}

#[derive(Debug, Serialize)]
pub(super) struct Line {
    pub(super) trace: String,
    pub(super) events: usize,
    pub(super) live_mib: f64,
    /// Null where the device has no room for what is live and 2 % more.
    pub(super) replayed: Option<Replayed>,
}

/// Seconds are the host's.
#[derive(Debug, Serialize)]
pub(super) struct Replayed {
    /// With all the room of the device: the pass that creates everything, and an event in passes after it, median.
    pub(super) first_seconds: f64,
    pub(super) nanoseconds: f64,
    pub(super) first_calls: Calls,
    /// In a later pass.
    pub(super) calls: Calls,
    /// The peak of what was held, in per cent over what is live.
    pub(super) reserved: f64,
    /// Within 2 % over what is live: an event in passes after the first, calls of one, and requests that were refused in it.
    pub(super) tight_nanoseconds: f64,
    pub(super) tight_calls: Calls,
    pub(super) tight_refused: usize,
}

/// Calls of the driver that a pass makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Calls {
    pub(super) creates: u64,
    pub(super) maps: u64,
    pub(super) grants: u64,
    pub(super) unmaps: u64,
    pub(super) destroys: u64,
    /// Recorded events.
    pub(super) records: u64,
    /// Waits of the host.
    pub(super) host_waits: u64,
}

impl Calls {
    fn between(before: &Events, after: &Events) -> Self {
        Self {
            creates: after.creates - before.creates,
            maps: after.maps - before.maps,
            grants: after.grants - before.grants,
            unmaps: after.unmaps - before.unmaps,
            destroys: after.destroys - before.destroys,
            records: after.records - before.records,
            host_waits: after.host_waits - before.host_waits,
        }
    }

    /// Those that create, map, open or unmap.
    pub(super) const fn of_memory(self) -> u64 {
        self.creates + self.maps + self.grants + self.unmaps + self.destroys
    }
}

pub(super) struct Measure<'a>(pub(super) &'a Arguments);

impl Work for Measure<'_> {
    type Output = OnDevice;

    fn run<B: Backend>(self, device: &Device<B>) -> Result<OnDevice> {
        let Self(arguments) = self;
        let names = names(arguments);
        let traces = names.iter().map(|name| line(arguments, device, name));
        Ok(OnDevice { device: device.info().name.clone(), traces: traces.collect::<Result<_>>()? })
    }
}

fn line<B: Backend>(arguments: &Arguments, device: &Device<B>, name: &str) -> Result<Line> {
    let trace = load(arguments, name)?;
    let live = trace.peak_bytes();
    let fits = live + live / 50 <= device.ledger().free_bytes();
    let replayed = fits.then(|| replayed(arguments, device, &trace)).transpose()?;
    Ok(Line { trace: name.to_owned(), events: trace.ops().len(), live_mib: live as f64 / MIB, replayed })
}

fn replayed<B: Backend>(arguments: &Arguments, device: &Device<B>, trace: &Trace) -> Result<Replayed> {
    let (live, ledger) = (trace.peak_bytes(), device.ledger());
    let roomy = passes(arguments, device, trace)?;
    // What the driver has taken counts too. The cap is put back for the next trace.
    let cap = ledger.cap_bytes();
    ledger.set_cap_bytes(ledger.granted_bytes() + live + live / 50);
    let tight = passes(arguments, device, trace);
    ledger.set_cap_bytes(cap);
    let tight = tight?;
    Ok(Replayed {
        first_seconds: roomy.first_seconds,
        nanoseconds: roomy.nanoseconds,
        first_calls: roomy.first_calls,
        calls: roomy.calls,
        reserved: percent_over(live, roomy.reserved_bytes as f64),
        tight_nanoseconds: tight.nanoseconds,
        tight_calls: tight.calls,
        tight_refused: tight.refused,
    })
}

struct Passes {
    first_seconds: f64,
    first_calls: Calls,
    calls: Calls,
    nanoseconds: f64,
    reserved_bytes: u64,
    /// In the second pass.
    refused: usize,
}

/// A fresh allocator: the first pass, and more of them.
fn passes<B: Backend>(arguments: &Arguments, device: &Device<B>, trace: &Trace) -> Result<Passes> {
    let allocator = Allocator::new(device, arguments.settings.clone())?;
    let mut replay = Replay::new(trace, &allocator)?;
    let counts = || allocator.statistics().events;
    let (new, start) = (counts(), Instant::now());
    replay.pass()?;
    let (first_seconds, used) = (start.elapsed().as_secs_f64(), counts());
    let mut refused = None;
    let (mut times, mut again, begun) = (Vec::new(), used, Instant::now());
    while times.is_empty() || (times.len() < ROUNDS && begun.elapsed() < PASSES) {
        let start = Instant::now();
        let count = replay.pass()?;
        times.push(start.elapsed().as_secs_f64() * 1e9 / trace.ops().len() as f64);
        if refused.is_none() {
            (refused, again) = (Some(count), counts());
        }
    }
    Ok(Passes {
        first_seconds,
        first_calls: Calls::between(&new, &used),
        calls: Calls::between(&used, &again),
        nanoseconds: timing::median(times),
        reserved_bytes: allocator.statistics().all.reserved_bytes.peak,
        refused: refused.unwrap_or_default(),
    })
}
