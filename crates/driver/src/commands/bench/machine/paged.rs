//! A step whose weights are streamed: queued call by call, and replayed as two graphs that wait for each other.
#![expect(unsafe_code, reason = "a replay")]

use std::sync::Arc;

use half::bf16;
use lighterage_checkpoint::{Checkpoint, NewTensor};
use lighterage_device::{Cuda, Device};
use lighterage_ops::{Add, Queue, Tensor, add};
use lighterage_pager::{Cycle, Goal, Pager, Plan, Recorded, TensorSpec, UnitId, UnitSpec, Units};
use lighterage_shape::DType;
use serde::Serialize;

use super::chain::time;
use crate::failure::{Failure, Result};
use crate::interrupt::Scratch;
use crate::{mapping, output};

/// Elements of a row: what is added up of each weight.
const COLUMNS: usize = 1024;
const BYTES: usize = 2;
/// Steps of either kind that are timed.
const STEPS: usize = 11;

/// Seconds are of one step, medians.
#[derive(Debug, Serialize)]
pub(super) struct Paged {
    pub(super) units: usize,
    pub(super) streamed_bytes_per_step: u64,
    /// Whether every replayed step made the bits of the one that was queued call by call.
    pub(super) replayed_same_bits: bool,
    pub(super) replays: usize,
    /// From the first call to the end of the work.
    pub(super) direct_seconds: f64,
    pub(super) graph_seconds: f64,
    /// What the host needs to queue it.
    pub(super) direct_host_seconds: f64,
    pub(super) graph_host_seconds: f64,
}

/// So many weights of about so many bytes, half of which the device holds.
pub(super) fn measure(device: &Device<Cuda>, units: usize, unit_bytes: u64) -> Result<Paged> {
    let rows = usize::try_from(unit_bytes)? / (COLUMNS * BYTES);
    let folder = Scratch::inside(&std::env::temp_dir())?;
    let checkpoint = weights(folder.path(), units.max(2), rows.max(2))?;
    let (units, cycle) = units_of(&checkpoint)?;
    let queue = super::queue(device)?;
    let page_bytes = device.info().page_bytes;
    let least = Plan::minimum(&units, &cycle, page_bytes);
    let most = Plan::resident(&units, &cycle, page_bytes).bytes();
    let turns = vec![Cycle { turns: 2, ..Cycle::untimed(&cycle) }];
    let plan = Plan::new(&units, &Goal::new(turns, least.midpoint(most), page_bytes))?;
    let pager = Pager::planned(queue.stream(), units, &plan)?.replayable()?;
    let work =
        Work { pager, cycle, sum: zeros(&queue, 1)?, last: zeros(&queue, rows.max(2))?, queue: &queue };
    // The first one loads.
    work.direct()?;
    work.direct()?;
    let expected = work.result()?;
    let (direct_host_seconds, direct_seconds) = time(queue.stream(), STEPS, || work.direct())?;
    let mut turn = work.capture()?;
    let mut same_bits = work.result()? == expected;
    for _ in 0..STEPS {
        work.spoil()?;
        work.replay(&mut turn)?;
        same_bits &= work.result()? == expected;
    }
    let (graph_host_seconds, graph_seconds) = time(queue.stream(), STEPS, || work.replay(&mut turn))?;
    // Back to calls, and the same again.
    work.direct()?;
    same_bits &= work.result()? == expected;
    Ok(Paged {
        units: work.cycle.len(),
        streamed_bytes_per_step: plan.streamed_bytes(),
        replayed_same_bits: same_bits,
        replays: 2 * STEPS,
        direct_seconds,
        graph_seconds,
        direct_host_seconds,
        graph_host_seconds,
    })
}

/// A file of weights, no two of which are equal.
fn weights(folder: &std::path::Path, units: usize, rows: usize) -> Result<Checkpoint> {
    let path = folder.join("weights.safetensors");
    let names: Vec<String> = (0..units).map(|unit| format!("{unit}.weight")).collect();
    let value =
        |unit: usize, index: usize| bf16::from_f32((((index * 31 + unit * 97) % 509) as f32) / 256.0 - 1.0);
    let bytes = |unit: usize| (0..rows * COLUMNS).flat_map(move |index| value(unit, index).to_le_bytes());
    let bytes: Vec<Vec<u8>> = (0..units).map(|unit| bytes(unit).collect()).collect();
    let shape = [rows, COLUMNS];
    let tensors = names.iter().zip(&bytes).map(|(name, bytes)| NewTensor {
        name,
        dtype: DType::Bf16,
        shape: &shape,
        bytes,
    });
    output::write_tensors(&path, &tensors.collect::<Vec<_>>())?;
    Ok(mapping::open(&path)?)
}

fn units_of(checkpoint: &Checkpoint) -> Result<(Arc<Units>, Vec<UnitId>)> {
    let (mut units, mut cycle) = (Units::default(), Vec::new());
    for index in 0..checkpoint.tensors().count() {
        let name = format!("{index}.weight");
        let shape = checkpoint.tensor(&name)?.shape().to_vec();
        let weight = TensorSpec::whole(checkpoint, &name, &shape, DType::Bf16)?;
        cycle.push(units.add(UnitSpec { name, tensors: vec![weight] }));
    }
    Ok((Arc::new(units), cycle))
}

fn zeros(queue: &Queue<Cuda>, rows: usize) -> Result<Tensor<Cuda>> {
    Ok(queue.zeros(DType::Bf16, &[rows, COLUMNS], "paged")?)
}

/// A loop over the weights.
struct Work<'a> {
    pager: Pager<Cuda>,
    cycle: Vec<UnitId>,
    /// Of a row of each weight: bf16, so that the order shows.
    sum: Tensor<Cuda>,
    /// The last weight, whole.
    last: Tensor<Cuda>,
    queue: &'a Queue<Cuda>,
}

impl Work<'_> {
    /// All weights in order: each is copied whole, and its last row is added to a half of the sum.
    fn lease_all(&self) -> Result<()> {
        let (stream, sum, last) = (self.queue.stream(), self.sum.view(), self.last.view());
        stream.fill(sum, 0)?;
        for unit in &self.cycle {
            let lease = self.pager.lease(*unit)?;
            let weight = lease.tensor(0);
            stream.copy(last, weight)?;
            let rows = weight.shape()[0];
            add(self.queue, &Add { a: weight.rows(rows - 1, 1)?, b: sum, scale: 0.5, out: sum })?;
        }
        Ok(())
    }

    fn direct(&self) -> Result<()> {
        self.pager.turn(0)?;
        self.lease_all()
    }

    fn capture(&self) -> Result<Recorded<Cuda>> {
        self.pager.turn(0)?;
        let turn = if self.pager.is_recordable() { self.pager.capture(|| self.lease_all())?.1 } else { None };
        turn.ok_or_else(|| Failure::Refused("no turn of the pager could be recorded".to_owned()))
    }

    fn replay(&self, turn: &mut Recorded<Cuda>) -> Result<()> {
        // SAFETY: the tensors are there until `self` is gone, whose pager waits for both streams; the weights are the pager's.
        if unsafe { self.pager.replay(turn) }? {
            return Ok(());
        }
        Err(Failure::Refused("a recorded turn of the pager was not replayed".to_owned()))
    }

    /// No bits of an earlier step are left.
    fn spoil(&self) -> Result<()> {
        self.queue.stream().fill(self.sum.view(), 0xff)?;
        Ok(self.queue.stream().fill(self.last.view(), 0xff)?)
    }

    fn result(&self) -> Result<[Vec<u16>; 2]> {
        let read = |tensor: &Tensor<Cuda>| -> Result<Vec<u16>> {
            let values = self.queue.read::<bf16>(tensor.view())?.unwrap_or_default();
            Ok(values.into_iter().map(bf16::to_bits).collect())
        };
        Ok([read(&self.sum)?, read(&self.last)?])
    }
}
