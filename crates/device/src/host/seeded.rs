//! The seeded mode: no threads, and a draw decides whose turn it is.
//!
//! Work waits in the queues of its streams until a call gives the scheduler an occasion: queueing, querying, waiting. Then it draws how many
//! operations run and from which streams, among those whose next operation may run. So a seed is an interleaving, and the same
//! program under the same seed runs the same way again.
//!
//! Memory that a queued copy or fill is about to write is *poisoned*, overwritten with 0xFF (NaN in every float type), as soon as
//! everything that is ordered before the copy and might still use it has run. Of the correct program nobody looks at that memory between
//! then and the copy: what comes after the copy waits for it. Work that reads it without having waited finds NaN.

use std::collections::VecDeque;
use std::iter;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::memory::Memory;
use super::ticket::{Outcome, Ticket};
use super::work::{Machine, QUEUE_MAX, Work, pointer_mut};
use crate::space::Extent;
use crate::{Error, Result};

/// What poisoned memory holds.
pub(super) const POISON: u8 = 0xff;

/// What a wait for a point without a future ends with.
const DEADLOCK: &str = "deadlock: waits for a point that no queued work reaches";

/// All streams of a seeded device.
#[derive(Debug)]
pub(super) struct Scheduler {
    state: Mutex<State>,
    machine: Arc<Machine>,
    memory: Arc<Memory>,
}

#[derive(Debug)]
struct State {
    draws: Draws,
    policy: Policy,
    streams: Vec<Queue>,
}

/// How turns are given for a while, itself drawn: without this, long starvation of one stream would be too rare to be seen.
#[derive(Clone, Copy, Debug)]
struct Policy {
    /// After a call one more operation runs with this chance, in quarters, again and again.
    eager_quarters: u64,
    /// Whether the stream of highest priority always goes first, instead of any.
    strict: bool,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    priority: u64,
    failed: Option<String>,
}

#[derive(Debug)]
struct Item {
    work: Work,
    reads: Vec<Extent>,
    writes: Vec<Extent>,
    poisoned: bool,
}

impl Scheduler {
    pub(super) fn new(seed: u64, machine: Arc<Machine>, memory: Arc<Memory>) -> Self {
        let mut draws = Draws(seed);
        let policy = Policy::draw(&mut draws);
        Self { state: Mutex::new(State { draws, policy, streams: Vec::new() }), machine, memory }
    }

    /// Adds a stream; its number.
    pub(super) fn stream(&self) -> usize {
        let mut state = self.lock();
        let priority = state.draws.bits();
        state.streams.push(Queue { priority, ..Queue::default() });
        state.streams.len() - 1
    }

    /// Queues an operation, and lets some run.
    pub(super) fn push(&self, stream: usize, work: Work) -> Result<()> {
        self.push_all(stream, iter::once(work))
    }

    /// Queues many operations as one, and lets some run.
    pub(super) fn push_all(&self, stream: usize, work: impl Iterator<Item = Work>) -> Result<()> {
        let items: Vec<Item> = work.map(|work| self.item(work)).collect();
        let mut state = self.lock();
        while state.streams[stream].items.len() >= QUEUE_MAX {
            self.must_step(&mut state).map_err(Error::Stream)?;
        }
        if let Some(message) = &state.streams[stream].failed {
            return Err(Error::Stream(message.clone()));
        }
        state.streams[stream].items.extend(items);
        state.poison();
        self.some_steps(&mut state);
        Ok(())
    }

    /// Lets some operations run, then looks at a point.
    pub(super) fn query(&self, ticket: &Ticket) -> Option<Outcome> {
        let mut state = self.lock();
        // Under any policy a caller that asks again and again gets its answer.
        if state.draws.below(2) == 0 {
            self.step(&mut state);
        }
        self.some_steps(&mut state);
        ticket.poll()
    }

    /// Runs operations of any streams until a point is reached.
    pub(super) fn wait(&self, ticket: &Ticket) -> Outcome {
        let mut state = self.lock();
        loop {
            if let Some(outcome) = ticket.poll() {
                return outcome;
            }
            self.must_step(&mut state)?;
        }
    }

    /// Runs operations of any streams until one of them has done everything.
    pub(super) fn synchronize(&self, stream: usize) -> Outcome {
        let mut state = self.lock();
        while !state.streams[stream].items.is_empty() {
            self.must_step(&mut state)?;
        }
        state.streams[stream].failed.clone().map_or(Ok(()), Err)
    }

    fn item(&self, work: Work) -> Item {
        let extents = |address, bytes: usize| self.memory.extents(address, bytes as u64);
        let (reads, writes) = match &work {
            // What is not device memory has no extents.
            Work::Copy(copy) => {
                let reads = copy.source.address().map_or_else(Vec::new, |source| extents(source, copy.bytes));
                (reads, extents(copy.target, copy.bytes))
            }
            Work::Fill { target, bytes, .. } => (Vec::new(), extents(*target, *bytes)),
            _ => (Vec::new(), Vec::new()),
        };
        Item { work, reads, writes, poisoned: false }
    }

    fn some_steps(&self, state: &mut State) {
        while state.draws.below(4) < state.policy.eager_quarters {
            if !self.step(state) {
                return;
            }
        }
    }

    /// Runs one operation. Where none can run, the streams that wait fail: nothing of theirs stays pending behind the error.
    fn must_step(&self, state: &mut State) -> Outcome {
        if self.step(state) || state.fail_waiting() { Ok(()) } else { Err(DEADLOCK.to_owned()) }
    }

    /// Runs one operation of a drawn stream; false if no stream can go on.
    fn step(&self, state: &mut State) -> bool {
        let Some(stream) = state.draw_stream() else { return false };
        let queue = &mut state.streams[stream];
        let Some(item) = queue.items.pop_front() else { return false };
        let outcome = match (item.work, &queue.failed) {
            (Work::Record(ticket), failed) => {
                ticket.reach(failed.clone().map_or(Ok(()), Err));
                Ok(())
            }
            (Work::Raise(flag), Some(message)) => {
                flag.board.give_up(message);
                Ok(())
            }
            (_, Some(_)) => Ok(()),
            // The stream was drawn, so the point is reached.
            (Work::Wait(ticket), None) => ticket.poll().unwrap_or(Ok(())),
            // SAFETY: `Backend`'s unsafe calls queued it with their promises, and it is its turn.
            (work, None) => unsafe { self.machine.perform(work) },
        };
        if let Err(message) = outcome {
            queue.failed.get_or_insert(message);
        }
        state.poison();
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Panics of kernels are caught inside; nothing else under the lock panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A stream whose next operation may run.
    fn draw_stream(&mut self) -> Option<usize> {
        if self.draws.below(16) == 0 {
            self.redraw();
        }
        let ready: Vec<usize> =
            (0..self.streams.len()).filter(|index| self.streams[*index].is_ready()).collect();
        if self.policy.strict {
            return ready.into_iter().max_by_key(|index| self.streams[*index].priority);
        }
        let drawn = self.draws.below(ready.len().max(1) as u64);
        ready.get(usize::try_from(drawn).unwrap_or(0)).copied()
    }

    fn redraw(&mut self) {
        self.policy = Policy::draw(&mut self.draws);
        for queue in &mut self.streams {
            queue.priority = self.draws.bits();
        }
    }

    fn poison(&mut self) {
        self.streams.iter_mut().for_each(Queue::poison);
    }

    /// Fails the streams that have work; false if there are none.
    fn fail_waiting(&mut self) -> bool {
        let waiting = self.streams.iter_mut().filter(|queue| !queue.items.is_empty());
        let why = |queue: &Queue| match queue.items.front().map(|item| &item.work) {
            Some(Work::Take(flag)) => flag.deadlock(),
            _ => DEADLOCK.to_owned(),
        };
        let fail = |queue: &mut Queue| {
            let why = why(queue);
            queue.failed.get_or_insert(why);
        };
        waiting.map(fail).count() > 0
    }
}

impl Policy {
    fn draw(draws: &mut Draws) -> Self {
        Self { eager_quarters: draws.below(4), strict: draws.below(2) == 0 }
    }
}

impl Queue {
    fn is_ready(&self) -> bool {
        match self.items.front().map(|item| &item.work) {
            Some(Work::Wait(ticket)) => self.failed.is_some() || ticket.poll().is_some(),
            Some(Work::Take(flag)) => self.failed.is_some() || flag.is_ready(),
            front => front.is_some(),
        }
    }

    /// Poisons what queued copies and fills will write, as far as nothing ordered before them may still use it: up to the first
    /// operation that waits, or whose memory is unknown, and past others where they use other memory.
    fn poison(&mut self) {
        if self.failed.is_some() {
            return;
        }
        for index in 0..self.items.len() {
            let (before, rest) = self.items.make_contiguous().split_at_mut(index);
            let Some(item) = rest.first_mut().filter(|item| !item.is_barrier()) else { return };
            if !item.poisoned && !before.iter().any(|earlier| earlier.uses(&item.writes)) {
                item.poison();
            }
        }
    }
}

impl Item {
    fn is_barrier(&self) -> bool {
        match &self.work {
            // A flag that is raised now may be taken by an earlier one that waits for it.
            Work::Kernel { .. } | Work::Take(_) => true,
            Work::Wait(ticket) => ticket.poll().is_none(),
            Work::Copy(_) | Work::Fill { .. } | Work::Record(_) | Work::Raise(_) | Work::Stamp(_) => false,
        }
    }

    fn uses(&self, extents: &[Extent]) -> bool {
        let meet = |a: &Extent, b: &Extent| a.start < b.end && b.start < a.end;
        self.reads.iter().chain(&self.writes).any(|mine| extents.iter().any(|theirs| meet(mine, theirs)))
    }

    fn poison(&mut self) {
        self.poisoned = true;
        let (target, bytes) = match &self.work {
            Work::Copy(copy) => (copy.target, copy.bytes),
            Work::Fill { target, bytes, .. } => (*target, *bytes),
            Work::Kernel { .. }
            | Work::Record(_)
            | Work::Wait(_)
            | Work::Raise(_)
            | Work::Take(_)
            | Work::Stamp(_) => return,
        };
        // A copy to the host: its caller waits for it anyway.
        if self.writes.is_empty() {
            return;
        }
        // SAFETY: the range is mapped with access (checked when the work was queued) until the work is done, and what is ordered before the
        // work and uses the range has run: nobody who keeps `Backend`'s rules uses it now.
        unsafe { ptr::write_bytes(pointer_mut(target), POISON, bytes) };
    }
}

/// `SplitMix64` (Steele, Lea and Flood 2014).
#[derive(Debug)]
struct Draws(u64);

impl Draws {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, at least 1.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Workers;

    #[test]
    fn waiting_for_what_never_comes_is_an_error() {
        for seed in 0..20 {
            let machine = Arc::new(Machine { workers: Workers::new(1, None).unwrap(), link: None });
            let memory = Arc::new(Memory::new(1 << 16, 1 << 20, Some(POISON)).unwrap());
            let scheduler = Scheduler::new(seed, machine, memory);
            let (stuck, behind, free) = (scheduler.stream(), scheduler.stream(), scheduler.stream());
            let (nobodys, theirs) = (Arc::new(Ticket::default()), Arc::new(Ticket::default()));
            let deadlock = Err(DEADLOCK.to_owned());
            assert_eq!(scheduler.wait(&nobodys), deadlock);
            scheduler.push(stuck, Work::Wait(Arc::clone(&nobodys))).unwrap();
            scheduler.push(stuck, Work::Record(Arc::clone(&theirs))).unwrap();
            scheduler.push(behind, Work::Wait(Arc::clone(&theirs))).unwrap();
            assert_eq!(scheduler.synchronize(free), Ok(()));
            assert_eq!(scheduler.synchronize(behind), deadlock);
            assert_eq!(scheduler.wait(&theirs), deadlock);
            assert_eq!(scheduler.push(stuck, Work::Record(theirs)), Err(Error::Stream(DEADLOCK.to_owned())));
        }
    }
}
