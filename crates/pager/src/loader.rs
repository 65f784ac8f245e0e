use std::collections::BTreeMap;

use lighterage_device::{Address, Backend, Event, Pinned, Stream};

use crate::convert;
use crate::plan::Plan;
use crate::units::{UnitId, UnitSpec, Units};
use crate::{Error, Result};

/// How many converted resident units may wait for their copies at once.
pub(crate) const STAGES: usize = 2;

/// How long a unit's converted bytes are needed on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// For later cycles: the unit is streamed.
    Always,
    /// Until its copy is done: the unit is resident.
    UntilCopied,
}

/// Queues the copies of units, from the mapped files where they hold the very bytes, else from converted ones in pinned memory.
///
/// Pinned memory is charged to the host ledger, exact: the converted bytes of every streamed unit, and stages for two of the largest converted resident
/// unit. A stage is used again when its copy is done; waiting for that is the only wait of the host in this crate, and over when the residents are loaded.
#[derive(Debug)]
pub(crate) struct Loader<B: Backend> {
    stream: Stream<B>,
    kept: BTreeMap<UnitId, Pinned<B>>,
    stage_bytes: u64,
    stages: Vec<Stage<B>>,
    /// The stage that was used longest ago, once there are `STAGES`.
    oldest: usize,
}

#[derive(Debug)]
struct Stage<B: Backend> {
    memory: Pinned<B>,
    copied: Event<B>,
}

impl<B: Backend> Loader<B> {
    /// A loader that copies on `stream`.
    pub(crate) fn new(stream: Stream<B>, units: &Units, plan: &Plan) -> Result<Self> {
        let needed = plan.pinned_bytes(units);
        let free = stream.device().host_ledger().free_bytes();
        if needed > free {
            return Err(Error::HostBudget { needed, free });
        }
        let stage_bytes = plan.stage_bytes(units);
        Ok(Self { stream, kept: BTreeMap::new(), stage_bytes, stages: Vec::new(), oldest: 0 })
    }

    pub(crate) const fn stream(&self) -> &Stream<B> {
        &self.stream
    }

    /// Queues the copies of all tensors of a unit to `target`.
    ///
    /// # Safety
    /// - `target` is mapped for the unit's bytes until the loader's stream is synchronised, and work on other streams that touches it is ordered
    ///   before or after the copies.
    /// - The unit's specification, which keeps its files mapped, outlives the copies, and so does the loader.
    pub(crate) unsafe fn load(
        &mut self,
        id: UnitId,
        unit: &UnitSpec,
        target: Address,
        keep: Keep,
    ) -> Result<()> {
        let stage = match keep {
            _ if unit.converted_bytes() == 0 => None,
            Keep::Always => {
                self.keep(id, unit)?;
                None
            }
            Keep::UntilCopied => Some(self.stage(unit)?),
        };
        let converted = match stage {
            Some(stage) => Some(self.stages[stage].memory.address()),
            None => self.kept.get(&id).map(Pinned::address),
        };
        // SAFETY: the caller's promise for target and files; converted bytes stay in pinned memory until the copy is done: kept ones as long as the
        // loader, a stage until its event, recorded below, is waited for.
        let mut outcome = unsafe { self.copy(unit, target, converted) };
        if let Some(stage) = stage {
            outcome = outcome.and_then(|()| Ok(self.stream.record(&self.stages[stage].copied)?));
            self.oldest = (stage + 1) % STAGES;
        }
        if outcome.is_err() {
            // Copies without an event may be under way: nothing may change below them. The first error is the one to report.
            let _ = self.stream.synchronize();
        }
        outcome
    }

    /// # Safety
    /// - As [`Loader::load`]; and `converted` holds the unit's converted tensors, one behind the other, until the copies are done.
    unsafe fn copy(&self, unit: &UnitSpec, target: Address, converted: Option<Address>) -> Result<()> {
        let mut converted = converted.unwrap_or_default();
        for (tensor, offset) in unit.tensors.iter().zip(unit.offsets()) {
            let mut target = target.offset(offset);
            if convert::is_needed(tensor) {
                let source =
                    std::ptr::with_exposed_provenance(usize::try_from(converted.0).unwrap_or(usize::MAX));
                // SAFETY: the caller's promise.
                unsafe { self.copy_run(target, source, tensor.bytes()) }?;
                converted = converted.offset(tensor.bytes());
                continue;
            }
            for piece in tensor.pieces() {
                let bytes = piece.bytes();
                // SAFETY: the caller's promise; `bytes` lies in the mapped file that the specification keeps.
                unsafe { self.copy_run(target, bytes.as_ptr(), bytes.len() as u64) }?;
                target = target.offset(bytes.len() as u64);
            }
        }
        Ok(())
    }

    /// # Safety
    /// - As [`Stream::copy_from_host`].
    unsafe fn copy_run(&self, target: Address, source: *const u8, bytes: u64) -> Result<()> {
        if bytes > 0 {
            // SAFETY: the caller's promise.
            unsafe { self.stream.copy_from_host(target, source, bytes) }?;
        }
        Ok(())
    }

    /// Converts a unit once and for all.
    fn keep(&mut self, id: UnitId, unit: &UnitSpec) -> Result<()> {
        if !self.kept.contains_key(&id) {
            let mut memory = self.stream.device().pin(unit.converted_bytes())?;
            convert_unit(unit, &mut memory, self.has_bytes());
            self.kept.insert(id, memory);
        }
        Ok(())
    }

    /// Converts a unit into the stage that is free first, and says which that is.
    fn stage(&mut self, unit: &UnitSpec) -> Result<usize> {
        let has_bytes = self.has_bytes();
        let index = if self.stages.len() < STAGES {
            let device = self.stream.device();
            let stage = Stage { memory: device.pin(self.stage_bytes)?, copied: device.event()? };
            self.stages.push(stage);
            self.stages.len() - 1
        } else {
            self.oldest
        };
        let stage = &mut self.stages[index];
        stage.copied.synchronize()?;
        convert_unit(unit, &mut stage.memory, has_bytes);
        Ok(index)
    }

    fn has_bytes(&self) -> bool {
        self.stream.device().info().has_bytes
    }
}

/// Writes the converted tensors one behind the other; memory without bytes (`Sim`) is left alone. No copy reads `memory` now.
fn convert_unit<B: Backend>(unit: &UnitSpec, memory: &mut Pinned<B>, has_bytes: bool) {
    if !has_bytes {
        return;
    }
    let mut rest = bytes_of(memory);
    for tensor in unit.tensors.iter().filter(|tensor| convert::is_needed(tensor)) {
        let (now, later) = rest.split_at_mut(usize::try_from(tensor.bytes()).unwrap_or(usize::MAX));
        convert::tensor(tensor, now);
        rest = later;
    }
}

/// Pinned memory as the host sees it; only for devices whose memory has bytes.
fn bytes_of<B: Backend>(memory: &mut Pinned<B>) -> &mut [u8] {
    let bytes = usize::try_from(memory.bytes()).unwrap_or(0);
    let first = std::ptr::with_exposed_provenance_mut(usize::try_from(memory.address().0).unwrap_or(0));
    // SAFETY: `pin` gave that many initialised bytes at this address, borrowed as long as `memory`, whose only owner the caller is; no copy reads them
    // now: `stage` waited for the last one, and `keep` has just pinned them.
    unsafe { std::slice::from_raw_parts_mut(first, bytes) }
}
