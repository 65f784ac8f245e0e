use std::fmt::Write as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ticket::Outcome;
use crate::Grant;

/// Flags of a [`Host`](super::Host).
#[derive(Debug)]
pub struct HostFlags(pub(super) Arc<Board>);

/// One of them, as queued work knows it.
#[derive(Clone, Debug)]
pub(super) struct Flag {
    pub(super) board: Arc<Board>,
    pub(super) index: usize,
}

/// A row of flags, and who waits for one.
#[derive(Debug)]
pub(super) struct Board {
    state: Mutex<State>,
    changed: Condvar,
    /// How long a stream waits for a flag before it has failed.
    patience: Duration,
    _grant: Grant,
}

#[derive(Debug)]
struct State {
    raised: Vec<bool>,
    /// Why nobody waits any more.
    given_up: Option<String>,
}

impl Board {
    pub(super) fn new(count: usize, patience: Duration, grant: Grant) -> Self {
        let state = State { raised: vec![false; count], given_up: None };
        Self { state: Mutex::new(state), changed: Condvar::new(), patience, _grant: grant }
    }

    /// The first reason is the one to report.
    pub(super) fn give_up(&self, why: &str) {
        self.state().given_up.get_or_insert_with(|| why.to_owned());
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // One assignment under the lock: nothing to be left half done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flag {
    pub(super) fn raise(&self) -> Outcome {
        let mut state = self.board.state();
        if std::mem::replace(&mut state.raised[self.index], true) {
            return Err(format!("flag {} was raised again before it was taken", self.index));
        }
        drop(state);
        self.board.changed.notify_all();
        Ok(())
    }

    /// Whether who takes it need not wait.
    pub(super) fn is_ready(&self) -> bool {
        let state = self.board.state();
        state.raised[self.index] || state.given_up.is_some()
    }

    /// Stops the calling thread until it is raised, and lowers it.
    pub(super) fn take(&self) -> Outcome {
        let (mut state, start) = (self.board.state(), Instant::now());
        loop {
            if let Some(why) = &state.given_up {
                return Err(why.clone());
            }
            if std::mem::take(&mut state.raised[self.index]) {
                return Ok(());
            }
            let Some(left) = self.board.patience.checked_sub(start.elapsed()) else {
                return Err(self.never_raised(&state));
            };
            let woken = self.board.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The words for a flag that nobody will raise.
    pub(super) fn deadlock(&self) -> String {
        self.never_raised(&self.board.state())
    }

    fn never_raised(&self, state: &State) -> String {
        let mut text = format!("flag {} of {} is never raised; raised are", self.index, state.raised.len());
        let raised = state.raised.iter().zip(0..).filter(|(raised, _)| **raised);
        let before = text.len();
        raised.for_each(|(_, index)| {
            let _ = write!(text, " {index}");
        });
        if text.len() == before {
            text.push_str(" none");
        }
        text
    }
}
