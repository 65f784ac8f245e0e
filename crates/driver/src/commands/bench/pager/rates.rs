//! Streaming a file against what the machine reads and copies by itself.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use lighterage_device::{Device, Host, HostConfig, Ledger, StreamKind, drop_from_page_cache};
use lighterage_pager::{Pager, Plan};
use serde::Serialize;

use super::synthetic::{Opened, Synthetic};
use crate::commands::bench::timing::median;
use crate::failure::Result;
use crate::size::Size;

/// Bytes per second, medians of rounds in alternation.
#[derive(Debug, Serialize)]
pub(super) struct Rates {
    bytes: u64,
    /// The processor copies the mapped file to other memory, in pieces as large as a layer.
    copy: f64,
    /// A pager streams all of it, with the file in the page cache.
    streamed_from_cache: f64,
    /// The system reads the file from disk into a buffer.
    read: f64,
    /// A pager streams all of it, with the file on disk alone.
    streamed_from_disk: f64,
}

const SIDE: usize = 2048;
const LAYER_BYTES: u64 = 2 * (SIDE * SIDE) as u64;
const ROUNDS: usize = 3;

pub(super) fn measure(folder: &Path, bytes: u64) -> Result<Rates> {
    let layers = usize::try_from(bytes / LAYER_BYTES)?.max(8);
    let model = Synthetic::new(folder, layers, SIDE, SIDE)?;
    let bytes = layers as u64 * LAYER_BYTES;
    let rate = |seconds: f64| bytes as f64 / seconds;
    let [mut copies, mut cached, mut reads, mut cold] = [const { Vec::new() }; 4];
    {
        let opened = model.open()?;
        // Into the page cache.
        copy(&opened);
        for _ in 0..ROUNDS {
            copies.push(rate(copy(&opened)));
            cached.push(rate(stream(&opened)?[1]));
        }
    }
    for _ in 0..ROUNDS {
        forget(&model.path)?;
        reads.push(rate(read(&model.path)?));
        forget(&model.path)?;
        cold.push(rate(stream(&model.open()?)?[0]));
    }
    let [copy, streamed_from_cache, read, streamed_from_disk] = [copies, cached, reads, cold].map(median);
    Ok(Rates { bytes, copy, streamed_from_cache, read, streamed_from_disk })
}

/// Seconds in which the processor copies every layer to one of a few buffers, as a ring has them.
fn copy(model: &Opened) -> f64 {
    let mut ring: Vec<Vec<u8>> =
        (0..RING_LAYERS).map(|_| vec![1; usize::try_from(LAYER_BYTES).unwrap_or(0)]).collect();
    let start = Instant::now();
    for (index, tensor) in model.checkpoint.tensors().enumerate() {
        let target = &mut ring[index % RING_LAYERS];
        target.copy_from_slice(tensor.bytes());
        std::hint::black_box(target);
    }
    start.elapsed().as_secs_f64()
}

const RING_LAYERS: usize = 3;

/// Seconds in which a pager brings every layer once, nothing reads them: of the first turn, and of a later one, whose pages the processor has met before.
fn stream(model: &Opened) -> Result<[f64; 2]> {
    let host = Host::new(HostConfig::default())?;
    let page = HostConfig::default().page_bytes;
    let budget = RING_LAYERS as u64 * LAYER_BYTES;
    let device = Device::new(host, Ledger::new(budget), Ledger::new(0));
    let stream = device.stream(StreamKind::Compute)?;
    let plan = Plan::within(&model.units, &model.cycle, budget, page)?;
    let pager = Pager::planned(&stream, Arc::clone(&model.units), &plan)?;
    let mut marks = [0.0; 3];
    let start = Instant::now();
    for mark in &mut marks {
        for unit in &model.cycle {
            drop(pager.lease(*unit)?);
        }
        stream.synchronize()?;
        *mark = start.elapsed().as_secs_f64();
    }
    // A later turn copies what is not resident, as a share of the file.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let share = plan.streamed_bytes() as f64 / plan.unit_bytes() as f64;
    Ok([marks[0], (marks[2] - marks[1]) / share])
}

/// Seconds in which the system reads the whole file.
fn read(path: &Path) -> Result<f64> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![1; usize::try_from(LAYER_BYTES)?];
    let start = Instant::now();
    while file.read(&mut buffer)? > 0 {}
    Ok(start.elapsed().as_secs_f64())
}

/// Drops the file from the page cache. It was written out when it was made.
fn forget(path: &Path) -> Result<()> {
    Ok(drop_from_page_cache(&File::open(path)?)?)
}

pub(super) fn print(out: &mut impl Write, rates: &Rates) -> Result<()> {
    let Rates { bytes, copy, streamed_from_cache, read, streamed_from_disk } = *rates;
    super::title(out, &format!("streaming a file of {}, medians of {ROUNDS} rounds", Size(bytes)))?;
    for (what, streamed, by, of) in [
        ("page cache", streamed_from_cache, "the processor copies", copy),
        ("disk", streamed_from_disk, "the system reads", read),
    ] {
        let (streamed_giga, giga) = (streamed / 1e9, of / 1e9);
        writeln!(
            out,
            "from {what}: {streamed_giga:.2} GB/s, {by} {giga:.2} GB/s: {:.0} %",
            100.0 * streamed / of
        )?;
    }
    Ok(())
}
