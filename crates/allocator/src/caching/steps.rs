use std::collections::BTreeMap;

use lighterage_device::{Address, Backend};

use super::allocator::{Handle, OnStream};
use super::tags::Tag;
use crate::trace::{Op, Plan, Trace};
use crate::{ALIGNMENT_BYTES, Error, Result};

/// How many requests ahead a step looks for one that its plan does foresee.
const RESYNC_MAX: usize = 8;

/// Steps that repeat: the first one under a key is recorded, and its requests are planned; later ones are served from an arena by
/// looking up a table.
///
/// Addresses are those of the plan as long as the requests are: they depend neither on time nor on what else happens on the device. A request that the plan
/// does not foresee is served by the allocator, and the plan looked up again from where it agrees; a plan that misses more than one request in twenty is
/// dropped and made anew.
///
/// An arena is one block of its stream. It stays where it is, mapped, until its plan is dropped: what a CUDA graph captured keeps its addresses.
#[derive(Debug)]
pub struct Steps<B: Backend> {
    on: OnStream<B>,
    plans: BTreeMap<String, Arena>,
    /// Steps begun so far.
    begun: u64,
}

/// A plan and the block that it is for.
#[derive(Debug)]
struct Arena {
    plan: Plan,
    handle: Handle,
    /// For each slot those before it whose bytes it takes over: they must be free by then.
    before: Vec<Vec<u32>>,
    live: Vec<bool>,
    /// Whether every request of this step so far had the next slot.
    is_whole: bool,
    captured: bool,
}

/// Memory of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepHandle {
    address: Address,
    bytes: u64,
    /// Number of its step.
    step: u64,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// This slot of the step's plan.
    Slot(u32),
    /// A block of the allocator; the number counts the step's requests.
    Block(Handle, u32),
}

impl StepHandle {
    /// First byte.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Bytes asked for.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// One step in the making: see [`Steps::begin`].
#[derive(Debug)]
pub struct Step<'a, B: Backend> {
    steps: &'a mut Steps<B>,
    key: String,
    number: u64,
    recorded: Vec<Op>,
    requests: u32,
    next: usize,
    hits: u64,
    misses: u64,
}

impl<B: Backend> Steps<B> {
    /// No plans yet.
    #[must_use]
    pub const fn new(on: OnStream<B>) -> Self {
        Self { on, plans: BTreeMap::new(), begun: 0 }
    }

    /// Starts a step; the key names everything that its requests depend on, shapes above all.
    pub fn begin(&mut self, key: &str) -> Step<'_, B> {
        if let Some(arena) = self.plans.get_mut(key) {
            // Handles of the step before are stale now.
            arena.live.fill(false);
            arena.is_whole = true;
        }
        self.begun += 1;
        Step {
            number: self.begun,
            steps: self,
            key: key.to_owned(),
            recorded: Vec::new(),
            requests: 0,
            next: 0,
            hits: 0,
            misses: 0,
        }
    }

    /// Takes a plan that was made elsewhere, for instance from a trace recorded on a device without bytes.
    ///
    /// # Errors
    /// As [`OnStream::allocate`]: the arena is allocated here.
    pub fn install(&mut self, key: &str, plan: Plan) -> Result<()> {
        let handle = self.on.allocate(plan.bytes(), Tag::NONE)?;
        let before = before(&plan);
        let live = vec![false; plan.slots().len()];
        let arena = Arena { plan, handle, before, live, is_whole: true, captured: false };
        match self.plans.insert(key.to_owned(), arena) {
            Some(old) => self.on.free(old.handle),
            None => Ok(()),
        }
    }

    /// The plan under a key.
    #[must_use]
    pub fn plan(&self, key: &str) -> Option<&Plan> {
        self.plans.get(key).map(|arena| &arena.plan)
    }

    /// From now on steps of this key may ask for nothing that their plan does not foresee, so that a graph can be captured: such a request
    /// is [`Error::OffPlan`].
    ///
    /// # Errors
    /// [`Error::Step`] if the key has no plan.
    pub fn capture(&mut self, key: &str) -> Result<()> {
        match self.plans.get_mut(key) {
            Some(arena) => {
                arena.captured = true;
                Ok(())
            }
            None => Err(Error::Step { key: key.to_owned(), reason: "there is no plan yet" }),
        }
    }

    /// Gives a plan's arena back: no graph that was captured on it may run any more.
    ///
    /// # Errors
    /// [`Error::Step`] if the key has no plan.
    pub fn forget(&mut self, key: &str) -> Result<()> {
        match self.plans.remove(key) {
            Some(arena) => self.on.free(arena.handle),
            None => Err(Error::Step { key: key.to_owned(), reason: "there is no plan" }),
        }
    }
}

impl<B: Backend> Drop for Steps<B> {
    fn drop(&mut self) {
        for arena in self.plans.values() {
            // Each arena's handle is its own, so it is not stale.
            let _ = self.on.free(arena.handle);
        }
    }
}

impl<B: Backend> Step<'_, B> {
    /// Memory for this step, to be given back before it ends: what came from the plan is stale afterwards.
    ///
    /// # Errors
    /// As [`OnStream::allocate`], and [`Error::OffPlan`] after [`Steps::capture`].
    pub fn allocate(&mut self, bytes: u64, tag: Tag) -> Result<StepHandle> {
        let (request, step) = (self.requests, self.number);
        self.requests += 1;
        if let Some(arena) = self.steps.plans.get_mut(&self.key) {
            let rounded = bytes.max(1).checked_next_multiple_of(ALIGNMENT_BYTES);
            if let Some(slot) = rounded.and_then(|rounded| arena.take(self.next, rounded)) {
                self.next = slot + 1;
                self.hits += 1;
                let address = arena.handle.address().offset(arena.plan.slots()[slot].offset);
                return Ok(StepHandle { address, bytes, step, place: Place::Slot(slot as u32) });
            }
            self.misses += 1;
            if arena.captured {
                let planned = arena.plan.slots().get(self.next).map(|slot| slot.bytes);
                let tag = self.steps.on.tag_name(tag);
                return Err(Error::OffPlan { position: request as usize, requested: bytes, tag, planned });
            }
        }
        let handle = self.steps.on.allocate(bytes, tag)?;
        // What was refused is no part of a plan.
        self.recorded.push(Op::Alloc { id: request, stream: 0, bytes });
        Ok(StepHandle { address: handle.address(), bytes, step, place: Place::Block(handle, request) })
    }

    /// Gives memory back to later work of the stream.
    ///
    /// # Errors
    /// [`Error::StaleHandle`] if it was given back before.
    pub fn free(&mut self, handle: StepHandle) -> Result<()> {
        match handle.place {
            Place::Slot(slot) => {
                let arena = self.steps.plans.get_mut(&self.key).filter(|_| handle.step == self.number);
                let live = arena.and_then(|arena| arena.live.get_mut(slot as usize));
                match live {
                    Some(live) if *live => *live = false,
                    _ => return Err(Error::StaleHandle { bytes: handle.bytes }),
                }
                Ok(())
            }
            Place::Block(block, request) => {
                self.steps.on.free(block)?;
                if handle.step == self.number {
                    self.recorded.push(Op::Free { id: request });
                }
                Ok(())
            }
        }
    }

    /// Requests served from the plan, and those that it did not foresee.
    #[must_use]
    pub const fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }

    /// Ends the step: a first one is planned and its arena allocated, a plan that missed too often is dropped.
    ///
    /// # Errors
    /// As [`OnStream::allocate`]; the step is over then too, without a plan.
    pub fn end(self) -> Result<()> {
        self.steps.on.count_plan(self.hits, self.misses);
        match self.steps.plans.get(&self.key) {
            None => {
                let plan = Plan::new(&Trace::new(self.recorded));
                self.steps.install(&self.key, plan)
            }
            Some(arena) if !arena.captured && self.misses * 20 > self.hits + self.misses => {
                self.steps.forget(&self.key)
            }
            Some(_) => Ok(()),
        }
    }
}

impl Arena {
    /// The next slot of this size, not far ahead, whose bytes nobody holds.
    #[inline]
    fn take(&mut self, next: usize, bytes: u64) -> Option<usize> {
        let slots = self.plan.slots();
        let last = slots.len().min(next + RESYNC_MAX + 1);
        let found = (next..last).find(|slot| slots[*slot].bytes == bytes);
        self.is_whole &= found == Some(next);
        let slot = found?;
        // Where every slot was handed out in turn, whoever had these bytes before those directly before was looked at then.
        let directly = self.before[slot].iter().any(|earlier| self.live[*earlier as usize]);
        if directly || !(self.is_whole || self.is_free(slot)) {
            self.is_whole = false;
            return None;
        }
        self.live[slot] = true;
        Some(slot)
    }

    /// Looks at all living slots.
    fn is_free(&self, slot: usize) -> bool {
        let slots = self.plan.slots();
        let (start, end) = (slots[slot].offset, slots[slot].offset + slots[slot].bytes);
        let meets =
            |other: usize| slots[other].offset < end && start < slots[other].offset + slots[other].bytes;
        !(0..slots.len()).any(|other| self.live[other] && meets(other))
    }
}

/// For each slot those that had its bytes last.
fn before(plan: &Plan) -> Vec<Vec<u32>> {
    // By start: end and slot. Later slots cut earlier ones.
    let mut owners: BTreeMap<u64, (u64, u32)> = BTreeMap::new();
    let mut before = Vec::with_capacity(plan.slots().len());
    for (number, slot) in (0..).zip(plan.slots()) {
        let (start, end) = (slot.offset, slot.offset + slot.bytes);
        let first = owners.range(..start).next_back().filter(|(_, (to, _))| *to > start);
        let first = first.map(|(from, (to, owner))| (*from, *to, *owner));
        let mut met: Vec<(u64, u64, u32)> = first.into_iter().collect();
        met.extend(owners.range(start..end).map(|(from, (to, owner))| (*from, *to, *owner)));
        for (from, to, owner) in &met {
            owners.remove(from);
            if *from < start {
                owners.insert(*from, (start, *owner));
            }
            if *to > end {
                owners.insert(end, (*to, *owner));
            }
        }
        owners.insert(start, (end, number));
        let mut list: Vec<u32> = met.into_iter().map(|(_, _, owner)| owner).collect();
        list.sort_unstable();
        list.dedup();
        before.push(list);
    }
    before
}
