use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// One recorded point of a stream: pending until the stream reaches it, then done or failed for good.
#[derive(Debug, Default)]
pub(super) struct Ticket {
    outcome: Mutex<Option<Outcome>>,
    reached: Condvar,
}

/// How the work before a point ended: with the first failure's message, if any.
pub(super) type Outcome = Result<(), String>;

impl Ticket {
    /// Reports the point as reached and wakes whoever waits.
    pub(super) fn reach(&self, outcome: Outcome) {
        self.outcome().get_or_insert(outcome);
        self.reached.notify_all();
    }

    /// How it ended, or nothing while it is pending.
    pub(super) fn poll(&self) -> Option<Outcome> {
        self.outcome().clone()
    }

    /// Stops the calling thread until the point is reached.
    pub(super) fn wait(&self) -> Outcome {
        let mut outcome = self.outcome();
        loop {
            if let Some(outcome) = outcome.as_ref() {
                return outcome.clone();
            }
            outcome = self.reached.wait(outcome).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn outcome(&self) -> MutexGuard<'_, Option<Outcome>> {
        // One assignment under the lock: nothing to be left half done by a panic.
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
