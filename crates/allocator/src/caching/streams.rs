//! What streams have done: events behind their work, recorded only where someone needs to know.

use lighterage_device::{Backend, Error as DeviceError, Stream};

use super::allocator::{Events, Inner};
use super::core::Core;
use crate::Result;

impl Core {
    /// Whether so much was given back on a stream that an event should follow, for the sake of other streams.
    #[inline]
    pub(crate) fn is_event_due(&self, owner: u16, every: u32) -> bool {
        self.streams.len() > 2 && self.streams[owner as usize].frees >= u64::from(every)
    }

    /// Streams with memory given back behind which there is no event yet.
    fn uncovered(&self) -> Vec<usize> {
        (1..self.streams.len())
            .filter(|owner| self.streams[*owner].last_free > self.streams[*owner].covered)
            .collect()
    }

    /// Notes that all work of a stream up to a stamp is done.
    fn complete(&mut self, owner: usize, stamp: u64) {
        let book = &mut self.streams[owner];
        self.completions += u64::from(stamp > book.completed);
        book.completed = book.completed.max(stamp);
        book.covered = book.covered.max(stamp);
    }
}

impl<B: Backend> Inner<B> {
    /// As [`poll`](Inner::poll) without what threads keep, unless another thread is at it or an error is in the way, which then waits for who needs the answer.
    #[cold]
    pub(super) fn poll_if_idle(&self) {
        if let Some(mut events) = self.growth.try_lock() {
            let _ = self.poll_once(&mut events);
        }
    }

    /// Records events where memory was given back since the last one, asks which are complete, and frees what waited for them: all of it, whatever threads keep
    /// for themselves.
    pub(super) fn poll(&self, events: &mut Events<B>) -> Result<()> {
        drop(self.whole());
        self.poll_once(events)
    }

    fn poll_once(&self, events: &mut Events<B>) -> Result<()> {
        let outcome = self.record(events).and_then(|()| self.query(events));
        let mut state = self.heap();
        state.core.settle_pending();
        state.core.settle();
        self.tell(&state);
        outcome
    }

    /// Waits for the oldest event; false if there is none.
    pub(super) fn wait_oldest(&self, events: &mut Events<B>) -> Result<bool> {
        let fronts = events.recorded.iter().enumerate();
        let oldest = fronts.filter_map(|(owner, queue)| Some((queue.front()?.0, owner))).min();
        let Some((stamp, owner)) = oldest else { return Ok(false) };
        let Some((_, event)) = events.recorded[owner].pop_front() else { return Ok(false) };
        match event.synchronize() {
            // Nothing of a failed stream is pending.
            Ok(()) | Err(DeviceError::Stream(_)) => events.spare.push(event),
            Err(error) => {
                // Nobody has waited: the work may still run.
                events.recorded[owner].push_front((stamp, event));
                return Err(error.into());
            }
        }
        let mut state = self.heap();
        state.core.counts.events.host_waits += 1;
        state.core.complete(owner, stamp);
        state.core.settle_pending();
        state.core.settle();
        Ok(true)
    }

    /// Queues a wait of one stream for all work of another one up to now.
    pub(super) fn wait_for(&self, events: &mut Events<B>, waiting: usize, owner: usize) -> Result<()> {
        let (now, theirs, ours) = {
            let state = self.heap();
            (state.core.sequence, state.streams[owner].clone(), state.streams[waiting].clone())
        };
        let (Some(theirs), Some(ours)) = (theirs, ours) else { return Ok(()) };
        if self.record_on(events, owner, &theirs, now)?
            && let Some((_, event)) = events.recorded[owner].back()
        {
            ours.wait(event)?;
        }
        Ok(())
    }

    fn record(&self, events: &mut Events<B>) -> Result<()> {
        let (now, due) = {
            let state = self.heap();
            let due = state.core.uncovered().into_iter();
            let due: Vec<_> = due.filter_map(|owner| Some((owner, state.streams[owner].clone()?))).collect();
            (state.core.sequence, due)
        };
        for (owner, stream) in due {
            self.record_on(events, owner, &stream, now)?;
        }
        Ok(())
    }

    /// Records an event behind all work that belongs to stamps up to `now`; false if the stream has failed, and so has nothing pending.
    fn record_on(&self, events: &mut Events<B>, owner: usize, stream: &Stream<B>, now: u64) -> Result<bool> {
        let event = match events.spare.pop() {
            Some(event) => event,
            None => self.device.event()?,
        };
        let outcome = stream.record(&event);
        match outcome {
            Ok(()) => {
                events.recorded[owner].push_back((now, event));
                let mut state = self.heap();
                let book = &mut state.core.streams[owner];
                (book.covered, book.frees) = (now, 0);
                state.core.counts.events.records += 1;
                Ok(true)
            }
            Err(DeviceError::Stream(_)) => {
                events.spare.push(event);
                self.give_up(events, owner, stream, now);
                Ok(false)
            }
            Err(error) => {
                events.spare.push(event);
                Err(error.into())
            }
        }
    }

    fn query(&self, events: &mut Events<B>) -> Result<()> {
        for owner in 1..events.recorded.len() {
            while let Some((stamp, event)) = events.recorded[owner].front() {
                let stamp = *stamp;
                match event.is_complete() {
                    Ok(false) => break,
                    Ok(true) => {
                        let done = events.recorded[owner].pop_front();
                        events.spare.extend(done.map(|(_, event)| event));
                        self.heap().core.complete(owner, stamp);
                    }
                    Err(DeviceError::Stream(_)) => {
                        let stream = self.heap().streams[owner].clone();
                        if let Some(stream) = stream {
                            self.give_up(events, owner, &stream, stamp);
                        }
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// A failed stream: after a wait nothing of it is pending. Its error is not ours: every later call on it reports that.
    fn give_up(&self, events: &mut Events<B>, owner: usize, stream: &Stream<B>, stamp: u64) {
        let _ = stream.synchronize();
        let waited = std::mem::take(&mut events.recorded[owner]);
        let last = waited.back().map_or(stamp, |(last, _)| stamp.max(*last));
        events.spare.extend(waited.into_iter().map(|(_, event)| event));
        self.heap().core.complete(owner, last);
    }
}
