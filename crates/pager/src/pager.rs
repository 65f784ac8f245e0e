use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lighterage_device::{Address, Backend, Event, Stream};

use crate::lease::Lease;
use crate::loader::Keep;
use crate::memory::Memory;
use crate::plan::Plan;
use crate::ring::Ring;
use crate::state::{Load, State};
use crate::units::{UnitId, Units};
use crate::{Error, Result};

/// What a pager has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Leases given.
    pub leases: u64,
    /// Bytes of the units whose copies to the device were queued, alignment included.
    pub copied_bytes: u64,
}

/// Keeps a phase's weights: leases units in the order of the cycle, again and again, and streams ahead.
///
/// All of its memory is charged to the ledger and mapped when it is made. In the steady state a lease costs one wait between streams and its drop one
/// event and the copies that have room now: nothing is mapped, allocated, or waited for by the host.
#[derive(Debug)]
pub struct Pager<B: Backend> {
    compute: Stream<B>,
    units: Arc<Units>,
    cycle: Vec<UnitId>,
    plan: Plan,
    read_ahead_bytes: u64,
    memory: Memory<B>,
    state: Mutex<State<B>>,
    #[cfg(test)]
    fault: Option<Fault>,
}

/// Mistakes that a test can plant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Launches do not wait for the copy of the unit that they read.
    NoWaitForCopy,
    /// The copy does not wait for the launches that read what was in its place.
    NoWaitForLaunches,
    /// The ring's space is used again while the unit before the one that is free now is still read.
    OneUnitEarly,
}

impl<B: Backend> Pager<B> {
    /// Takes the plan's bytes from the ledger and starts to read ahead; `stream` is where the leased weights are used.
    ///
    /// # Errors
    /// [`Error::Plan`] if the plan was made for another cycle, other units or a page that is not one of the device's,
    /// [`Error::HostBudget`] if converted weights do not fit the host ledger, [`Error::Device`] if memory is refused.
    pub fn new(stream: &Stream<B>, units: Arc<Units>, cycle: Vec<UnitId>, plan: &Plan) -> Result<Self> {
        check_cycle(&units, &cycle, plan)?;
        Self::build(stream, units, cycle, plan.clone(), None)
    }

    /// A pager that holds every unit and takes leases in any order: for a dry pass, which finds the cycle out, and for modules run alone.
    ///
    /// # Errors
    /// As [`Pager::new`].
    pub fn resident(stream: &Stream<B>, units: Arc<Units>) -> Result<Self> {
        let cycle: Vec<UnitId> = units.iter().map(|(id, _)| id).collect();
        let plan = Plan::resident(&units, &cycle, stream.device().info().page_bytes);
        Self::build(stream, units, cycle, plan, None)
    }

    /// The unit's weights, for launches on the pager's stream while the lease lives. Where the plan streams, every unit is leased in the order of
    /// the cycle, and several leases may be held as far as the ring has room.
    ///
    /// # Errors
    /// [`Error::Order`] if the plan streams and another unit is next, [`Error::Room`] if the unit can only be had after other leases are dropped,
    /// [`Error::NotPlanned`] if it is not in the plan, else what failed before or in a copy; the same unit may then be asked for again.
    pub fn lease(&self, unit: UnitId) -> Result<Lease<'_, B>> {
        let mut state = self.state();
        state.deferred.take().map_or(Ok(()), Err)?;
        self.check_order(&state, unit)?;
        let (address, visit) = if self.plan.is_resident(unit) {
            (self.lease_resident(&mut state, unit)?, None)
        } else {
            let (address, visit) = self.lease_streamed(&mut state, unit)?;
            (address, Some(visit))
        };
        state.visits += 1;
        state.trace.push(unit);
        Ok(Lease { pager: self, unit: self.units.get(unit), address, visit })
    }

    /// The units leased so far, in order.
    #[must_use]
    pub fn trace(&self) -> Vec<UnitId> {
        self.state().trace.clone()
    }

    /// The counters now.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let state = self.state();
        Statistics { leases: state.visits, copied_bytes: state.copied_bytes }
    }

    /// What it keeps to.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where the leased weights are used.
    #[must_use]
    pub const fn stream(&self) -> &Stream<B> {
        &self.compute
    }

    pub(crate) fn build(
        stream: &Stream<B>,
        units: Arc<Units>,
        cycle: Vec<UnitId>,
        plan: Plan,
        fault: Option<Fault>,
    ) -> Result<Self> {
        let page = stream.device().info().page_bytes;
        if !plan.page_bytes().is_multiple_of(page) {
            return Err(Error::Plan { what: "bytes of a page", expected: plan.page_bytes(), got: page });
        }
        let memory = Memory::new(stream.device(), &plan)?;
        let state = State::new(stream, &units, &plan, &memory)?;
        let largest = cycle.iter().map(|unit| units.bytes(*unit)).max().unwrap_or(0);
        let pager = Self {
            compute: stream.clone(),
            units,
            cycle,
            read_ahead_bytes: plan.ring_bytes().max(2 * largest),
            plan,
            memory,
            state: Mutex::new(state),
            #[cfg(test)]
            fault,
        };
        #[cfg(not(test))]
        let _ = fault;
        pager.queue_ahead(&mut pager.state())?;
        Ok(pager)
    }

    /// Refuses a unit that is not next, where the plan streams, or not in the plan, where it does not.
    fn check_order(&self, state: &State<B>, unit: UnitId) -> Result<()> {
        match self.plan.ring_bytes() {
            0 if self.plan.is_resident(unit) => Ok(()),
            0 => Err(Error::NotPlanned { unit: unit.0 }),
            _ if self.visited(state.visits) == unit => Ok(()),
            _ => Err(Error::Order { expected: self.name(self.visited(state.visits)), got: self.name(unit) }),
        }
    }

    fn name(&self, unit: UnitId) -> String {
        let spec = self.units.iter().nth(unit.0 as usize);
        spec.map_or_else(|| format!("number {}", unit.0), |(_, spec)| spec.name.clone())
    }

    fn lease_resident(&self, state: &mut State<B>, unit: UnitId) -> Result<Address> {
        if state.residents[&unit].load == Load::Absent {
            self.queue_resident(state, unit)?;
        }
        let Some(resident) = state.residents.get_mut(&unit) else {
            return Err(Error::NotPlanned { unit: unit.0 });
        };
        if resident.load == Load::Queued {
            self.wait_for_copy(&resident.arrived)?;
            resident.load = Load::Present;
            state.ahead_bytes -= resident.bytes;
        }
        Ok(resident.address)
    }

    fn lease_streamed(&self, state: &mut State<B>, unit: UnitId) -> Result<(Address, u64)> {
        let visit = state.ring.next();
        while state.queued_streamed <= visit && self.queue_next(state)? {}
        if state.queued_streamed <= visit {
            let (held, held_bytes) = state.ring.held();
            let (bytes, ring) = (self.units.bytes(unit), self.plan.ring_bytes());
            return Err(Error::Room { unit: self.name(unit), bytes, ring, held, held_bytes });
        }
        self.wait_for_copy(&state.arrived[state.ring.slot(visit)])?;
        state.ring.lease();
        Ok((self.memory.streamed(state.ring.offset(visit)), visit))
    }

    pub(crate) fn release(&self, visit: Option<u64>) {
        let mut state = self.state();
        if let Some(visit) = visit {
            state.ring.release(visit);
            state.is_freed_stale = true;
        }
        if let Err(error) = self.queue_ahead(&mut state) {
            state.deferred.get_or_insert(error);
        }
    }

    /// Queues every copy that has room.
    fn queue_ahead(&self, state: &mut State<B>) -> Result<()> {
        while self.queue_next(state)? {}
        Ok(())
    }

    /// Queues the copy of the next visit in the cycle; false if there is none, or no room for it yet.
    fn queue_next(&self, state: &mut State<B>) -> Result<bool> {
        let is_loaded_once = state.queued >= self.cycle.len() as u64;
        if is_loaded_once && self.plan.ring_bytes() == 0 {
            return Ok(false);
        }
        let unit = self.visited(state.queued);
        let queued = match state.residents.get(&unit) {
            Some(resident) if resident.load != Load::Absent => true,
            Some(resident) => {
                let is_near =
                    state.ahead_bytes == 0 || state.ahead_bytes + resident.bytes <= self.read_ahead_bytes;
                is_near && self.queue_resident(state, unit).map(|()| true)?
            }
            None => self.queue_streamed(state, unit)?,
        };
        state.queued += u64::from(queued);
        Ok(queued)
    }

    fn queue_resident(&self, state: &mut State<B>, unit: UnitId) -> Result<()> {
        let State { loader, residents, .. } = state;
        let Some(resident) = residents.get_mut(&unit) else { return Err(Error::NotPlanned { unit: unit.0 }) };
        // SAFETY: the slab is mapped for the unit's bytes until `drop` has synchronised the streams, and the specification is kept until then; launches
        // read it after they waited for `arrived`, and nothing else touches it.
        unsafe { loader.load(unit, self.units.get(unit), resident.address, Keep::UntilCopied) }?;
        loader.stream().record(&resident.arrived)?;
        resident.load = Load::Queued;
        state.ahead_bytes += resident.bytes;
        state.copied_bytes += resident.bytes;
        Ok(())
    }

    fn queue_streamed(&self, state: &mut State<B>, unit: UnitId) -> Result<bool> {
        let visit = state.queued_streamed;
        if !self.has_room(&state.ring, visit) {
            return Ok(false);
        }
        self.wait_for_launches(state)?;
        let State { loader, ring, arrived, .. } = state;
        let target = self.memory.streamed(ring.offset(visit));
        // SAFETY: the ring is mapped, twice behind itself, until `drop` has synchronised the streams, and the specification is kept until then; launches
        // that read what was in this place were waited for above, and those that read this wait for `arrived`.
        unsafe { loader.load(unit, self.units.get(unit), target, Keep::Always) }?;
        loader.stream().record(&arrived[ring.slot(visit)])?;
        state.queued_streamed += 1;
        state.copied_bytes += self.units.bytes(unit);
        Ok(true)
    }

    /// Lets the compute stream wait for a copy.
    fn wait_for_copy(&self, arrived: &Event<B>) -> Result<()> {
        if !self.has(Fault::NoWaitForCopy) {
            self.compute.wait(arrived)?;
        }
        Ok(())
    }

    /// Lets the copy stream wait for all launches on units that were released.
    fn wait_for_launches(&self, state: &mut State<B>) -> Result<()> {
        if state.is_freed_stale && !self.has(Fault::NoWaitForLaunches) {
            self.compute.record(&state.freed)?;
            state.loader.stream().wait(&state.freed)?;
            state.is_freed_stale = false;
        }
        Ok(())
    }

    fn has_room(&self, ring: &Ring, visit: u64) -> bool {
        let early = u64::from(self.has(Fault::OneUnitEarly));
        ring.has_room_above(visit, (ring.oldest() + early).min(visit))
    }

    fn visited(&self, visit: u64) -> UnitId {
        self.cycle[usize::try_from(visit % self.cycle.len() as u64).unwrap_or(usize::MAX)]
    }

    #[cfg(test)]
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "faults are planted in tests only")]
    const fn has(&self, _: Fault) -> bool {
        false
    }

    fn state(&self) -> MutexGuard<'_, State<B>> {
        // The fields agree after every statement that can panic, so a panic elsewhere does not spoil them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Drop for Pager<B> {
    fn drop(&mut self) {
        // Copies read the files and write the ring, launches read both: they end before the memory goes. An error is not lost: a failed stream
        // reports it to every later call.
        let _ = self.state().loader.stream().synchronize();
        let _ = self.compute.synchronize();
    }
}

fn check_cycle(units: &Units, cycle: &[UnitId], plan: &Plan) -> Result<()> {
    let differ = |what, expected, got| Err(Error::Plan { what, expected, got });
    if cycle.len() != plan.cycle().len() {
        return differ("visits of the cycle", plan.cycle().len() as u64, cycle.len() as u64);
    }
    if let Some((expected, got)) = plan.cycle().iter().zip(cycle).find(|(expected, got)| expected != got) {
        return differ("unit in the cycle", u64::from(expected.0), u64::from(got.0));
    }
    if let Some(unit) = cycle.iter().find(|unit| unit.0 as usize >= units.count()) {
        return differ("number of units", u64::from(unit.0) + 1, units.count() as u64);
    }
    let bytes = cycle.iter().map(|unit| units.bytes(*unit)).sum();
    if bytes == plan.visited_bytes() {
        Ok(())
    } else {
        differ("bytes of the cycle", plan.visited_bytes(), bytes)
    }
}
