//! Whether a stream records, decided once for each call: what is queued while one thread begins or ends a recording is in it or outside of it, and so is the wait for it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::{Error, Result};

/// What a stream records, and who keeps it from beginning to.
#[derive(Debug)]
pub(crate) struct Gate<T> {
    state: Mutex<State<T>>,
    /// A call that stays outside is over.
    left: Condvar,
}

#[derive(Debug)]
struct State<T> {
    /// What is queued while it is recorded instead of done; what spoilt it.
    recording: Option<Result<T>>,
    /// Calls under way that are no part of a recording: none begins before they are over.
    outside: usize,
}

/// Keeps a stream from recording until it is dropped.
#[derive(Debug)]
pub(crate) struct Outside<'a, T>(&'a Gate<T>);

impl<T> Default for Gate<T> {
    fn default() -> Self {
        Self { state: Mutex::new(State { recording: None, outside: 0 }), left: Condvar::new() }
    }
}

impl<T> Gate<T> {
    /// Begins a recording, when the calls that stay outside are over.
    pub(crate) fn begin(&self, begin: impl FnOnce() -> Result<T>) -> Result<()> {
        let mut state = self.state();
        while state.outside > 0 {
            state = self.left.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.recording.is_some() {
            return Err(Error::Stream("a stream that is being recorded was to be recorded".to_owned()));
        }
        state.recording = Some(Ok(begin()?));
        Ok(())
    }

    /// Ends the recording, if there is one.
    pub(crate) fn end<R>(&self, end: impl FnOnce(Option<Result<T>>) -> R) -> R {
        let mut state = self.state();
        let recorded = state.recording.take();
        end(recorded)
    }

    /// Does something for the recording; where there is none, none begins while what is answered is kept.
    pub(crate) fn record<R>(
        &self,
        work: impl FnOnce(&mut Result<T>) -> R,
    ) -> std::result::Result<R, Outside<'_, T>> {
        let mut state = self.state();
        if let Some(recording) = &mut state.recording {
            return Ok(work(recording));
        }
        state.outside += 1;
        Err(Outside(self))
    }

    /// For what cannot be recorded: it spoils a recording.
    pub(crate) fn outside(&self, what: &str) -> Result<Outside<'_, T>> {
        self.record(|recording| spoil(recording, what)).map_or_else(Ok, Err)
    }

    /// For what is left out of a recording.
    pub(crate) fn try_outside(&self) -> Option<Outside<'_, T>> {
        self.record(|_| ()).err()
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        // One assignment each under the lock: nothing to be left half done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a recording by something that cannot be recorded.
pub(crate) fn spoil<T>(recording: &mut Result<T>, what: &str) -> Error {
    let error = Error::Stream(format!("{what} cannot be part of a graph"));
    *recording = Err(error.clone());
    error
}

impl<T> Drop for Outside<'_, T> {
    fn drop(&mut self) {
        self.0.state().outside -= 1;
        self.0.left.notify_all();
    }
}
