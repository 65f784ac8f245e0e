//! What the driver's memory calls cost: by size, by how much is there already, and for many maps at once.

use std::time::{Duration, Instant};

use lighterage_device::{Backend, Device, Purpose, Reservation};
use serde::Serialize;

use super::super::timing::median;
use crate::failure::Result;

/// Sizes of a piece, in pages: 2 to 256 MiB on a GPU.
const SIZES: [u64; 6] = [1, 2, 8, 16, 32, 128];
/// How many other pieces are there, each of a page, mapped and open.
const HANDLES: [usize; 4] = [0, 1000, 4000, 12_000];
/// Maps of a page that are opened and unmapped together.
const RUNS: [usize; 3] = [1, 16, 128];
const ROUNDS: usize = 7;
/// No more pieces are made after so long: what is there by then is what is measured with.
const GROWTH: Duration = Duration::from_secs(20);

/// Seconds of each call, median, at a size and with so many pieces there already.
#[derive(Debug, Serialize)]
pub(super) struct MemoryCalls {
    pub(super) bytes: u64,
    pub(super) handles: usize,
    pub(super) create_seconds: f64,
    pub(super) map_seconds: f64,
    pub(super) set_access_seconds: f64,
    pub(super) unmap_seconds: f64,
    pub(super) destroy_seconds: f64,
}

/// Seconds for neighbouring maps of a page each, median.
#[derive(Debug, Serialize)]
pub(super) struct MappingRun {
    pub(super) maps: usize,
    pub(super) bytes: u64,
    /// All of them, one call for each.
    pub(super) map_seconds: f64,
    /// Opened by one call for all.
    pub(super) set_access_once_seconds: f64,
    /// Opened by one call for each.
    pub(super) set_access_each_seconds: f64,
    /// One call of ours, which on CUDA is one of the driver's for each map (`crates/device/src/cuda/memory.rs` says why).
    pub(super) unmap_seconds: f64,
}

/// Every size, with no, some and many other pieces there.
pub(super) fn calls<B: Backend>(device: &Device<B>, handles_max: usize) -> Result<Vec<MemoryCalls>> {
    let page = device.info().page_bytes;
    let free = device.ledger().free_bytes();
    let most = handles_max.min(usize::try_from(free / 2 / page)?);
    let mut others = Others { range: device.reserve(most.max(1) as u64 * page)?, page, count: 0 };
    let deadline = Instant::now() + GROWTH;
    let mut lines = Vec::new();
    for handles in HANDLES.into_iter().filter(|handles| *handles < most).chain([most]) {
        others.grow(device, handles, deadline)?;
        for bytes in SIZES.map(|pages| pages * page).into_iter().filter(|bytes| *bytes <= free / 4) {
            lines.push(calls_at(device, bytes, others.count)?);
        }
        if others.count < handles {
            break;
        }
    }
    Ok(lines)
}

/// Pieces that are only there.
struct Others<B: Backend> {
    range: Reservation<B>,
    page: u64,
    count: usize,
}

impl<B: Backend> Others<B> {
    fn grow(&mut self, device: &Device<B>, count: usize, deadline: Instant) -> Result<()> {
        let first = self.count as u64 * self.page;
        while self.count < count && Instant::now() < deadline {
            let chunk = device.create(Purpose::Activations, self.page)?;
            self.range.map(self.count as u64 * self.page, &chunk)?;
            self.count += 1;
        }
        let end = self.count as u64 * self.page;
        if end > first { Ok(self.range.set_access(first, end - first)?) } else { Ok(()) }
    }
}

fn calls_at<B: Backend>(device: &Device<B>, bytes: u64, handles: usize) -> Result<MemoryCalls> {
    let range = device.reserve(bytes)?;
    let mut times: [Vec<f64>; 5] = Default::default();
    for _ in 0..ROUNDS {
        let mut lap = Instant::now();
        let mut note = |index: usize| {
            times[index].push(lap.elapsed().as_secs_f64());
            lap = Instant::now();
        };
        let chunk = device.create(Purpose::Activations, bytes)?;
        note(0);
        range.map(0, &chunk)?;
        note(1);
        range.set_access(0, bytes)?;
        note(2);
        range.unmap(0, bytes)?;
        note(3);
        drop(chunk);
        note(4);
    }
    let [create, map, set_access, unmap, destroy] = times.map(median);
    Ok(MemoryCalls {
        bytes,
        handles,
        create_seconds: create,
        map_seconds: map,
        set_access_seconds: set_access,
        unmap_seconds: unmap,
        destroy_seconds: destroy,
    })
}

/// Runs of neighbouring maps, as far as a quarter of the memory holds them.
pub(super) fn runs<B: Backend>(device: &Device<B>) -> Result<Vec<MappingRun>> {
    let (page, free) = (device.info().page_bytes, device.ledger().free_bytes());
    RUNS.into_iter().filter(|maps| *maps as u64 * page <= free / 4).map(|maps| run_of(device, maps)).collect()
}

fn run_of<B: Backend>(device: &Device<B>, maps: usize) -> Result<MappingRun> {
    let page = device.info().page_bytes;
    let bytes = maps as u64 * page;
    let range = device.reserve(bytes)?;
    let chunks = (0..maps).map(|_| device.create(Purpose::Activations, page));
    let chunks = chunks.collect::<std::result::Result<Vec<_>, _>>()?;
    let map = || chunks.iter().zip(0..).try_for_each(|(chunk, place)| range.map(place * page, chunk));
    let open_each = || (0..maps as u64).try_for_each(|place| range.set_access(place * page, page));
    let mut times: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        times[0].push(timed(map)?);
        times[1].push(timed(|| range.set_access(0, bytes))?);
        times[2].push(timed(|| range.unmap(0, bytes))?);
        map()?;
        times[3].push(timed(open_each)?);
        range.unmap(0, bytes)?;
    }
    let [map_seconds, set_access_once_seconds, unmap_seconds, set_access_each_seconds] = times.map(median);
    Ok(MappingRun {
        maps,
        bytes,
        map_seconds,
        set_access_once_seconds,
        set_access_each_seconds,
        unmap_seconds,
    })
}

/// Seconds of a call.
pub(super) fn timed(call: impl FnOnce() -> lighterage_device::Result<()>) -> Result<f64> {
    let start = Instant::now();
    call()?;
    Ok(start.elapsed().as_secs_f64())
}
