use std::collections::VecDeque;
use std::iter;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::memory::Memory;
use super::ticket::{Outcome, Ticket};
use super::work::{Machine, QUEUE_MAX, Work};
use crate::{Error, Result, StreamKind};

/// A stream with a thread of its own, which does what is queued, in order. Dropping it waits for that.
#[derive(Debug)]
pub(super) struct Lane {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    work: VecDeque<Work>,
    /// Whether the thread is in the middle of an operation.
    busy: bool,
    /// Whether someone waits on `changed`: the thread for work, or a caller for room.
    waiting: bool,
    closing: bool,
    /// The first failure. From then on operations are skipped, points are reached as failed, and calls report it.
    failed: Option<String>,
}

impl Lane {
    /// Starts the thread. It owns the memory too, which so outlives all work.
    pub(super) fn new(kind: StreamKind, machine: Arc<Machine>, memory: Arc<Memory>) -> Result<Self> {
        let queue = Arc::new(Queue::default());
        let name = match kind {
            StreamKind::Compute => "compute stream",
            StreamKind::Copy => "copy stream",
        };
        let theirs = Arc::clone(&queue);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                theirs.run(&machine);
                drop(memory);
            })
            .map_err(|error| Error::Driver {
                call: "stream",
                code: error.raw_os_error().unwrap_or(0),
                message: error.to_string(),
            })?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Queues an operation; blocks while the queue is full.
    pub(super) fn push(&self, work: Work) -> Result<()> {
        self.push_all(iter::once(work))
    }

    /// Queues many operations as one: all of them are queued, or none is. Blocks while the queue is full, not until all of them have room: the first may wait for
    /// what another stream is given afterwards.
    pub(super) fn push_all(&self, work: impl Iterator<Item = Work>) -> Result<()> {
        let mut state = self.queue.lock();
        while state.work.len() >= QUEUE_MAX && state.failed.is_none() {
            state = self.queue.wait(state);
        }
        if let Some(message) = &state.failed {
            return Err(Error::Stream(message.clone()));
        }
        state.work.extend(work);
        self.queue.notify(state);
        Ok(())
    }

    /// Waits for everything queued so far.
    pub(super) fn synchronize(&self) -> Outcome {
        let ticket = Arc::new(Ticket::default());
        let mut state = self.queue.lock();
        if state.work.is_empty() && !state.busy {
            return state.failed.clone().map_or(Ok(()), Err);
        }
        // Past the maximum by one for each waiting caller.
        state.work.push_back(Work::Record(Arc::clone(&ticket)));
        self.queue.notify(state);
        ticket.wait()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.closing = true;
        self.queue.notify(state);
        if let Some(thread) = self.thread.take() {
            // The thread catches the panics of kernels; one of its own would have been a failed stream, reported by `synchronize`.
            let _ = thread.join();
        }
    }
}

impl Queue {
    fn run(&self, machine: &Machine) {
        while let Some((work, failed)) = self.next() {
            match (work, failed) {
                (Work::Record(ticket), failed) => ticket.reach(failed.map_or(Ok(()), Err)),
                (Work::Raise(flag), Some(message)) => flag.board.give_up(&message),
                (_, Some(_)) => (),
                (Work::Wait(ticket), None) => self.fail(ticket.wait()),
                // SAFETY: `Backend`'s unsafe calls queued it with their promises, and it is its turn.
                (work, None) => self.fail(unsafe { machine.perform(work) }),
            }
        }
    }

    /// The next operation and the failure so far, or nothing when the stream has ended.
    fn next(&self) -> Option<(Work, Option<String>)> {
        let mut state = self.lock();
        state.busy = false;
        loop {
            if let Some(work) = state.work.pop_front() {
                state.busy = true;
                let failed = state.failed.clone();
                if state.work.len() == QUEUE_MAX / 2 {
                    self.notify(state);
                }
                return Some((work, failed));
            }
            if state.closing {
                return None;
            }
            state = self.wait(state);
        }
    }

    fn fail(&self, outcome: Outcome) {
        if let Err(message) = outcome {
            let mut state = self.lock();
            state.failed.get_or_insert(message);
            self.notify(state);
        }
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.waiting = true;
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whoever waits, after the lock is free: a thread woken before that would run into it.
    fn notify(&self, mut state: MutexGuard<'_, State>) {
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        if waiting {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
