use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use super::ticket::Outcome;
use crate::{Error, Result};

/// Counts the driver calls, and makes one of them fail.
#[derive(Debug)]
pub(super) struct Faults {
    calls: AtomicU64,
    /// Number of the call that fails.
    fail: Option<u64>,
}

/// Whether the call that holds it is the one to fail.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(super) struct Turn {
    call: &'static str,
    fails: bool,
}

impl Faults {
    pub(super) const fn new(fail: Option<u64>) -> Self {
        Self { calls: AtomicU64::new(0), fail }
    }

    /// Counts a call.
    pub(super) fn enter(&self, call: &'static str) -> Turn {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        Turn { call, fails: self.fail == Some(number) }
    }

    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Turn {
    /// Fails a call that takes something, with nothing taken.
    pub(super) fn refuse(self) -> Result<()> {
        self.refuse_with(|| driver(self.call, Errno::NOMEM))
    }

    /// Fails a call that takes something, in its own way.
    pub(super) fn refuse_with(self, error: impl FnOnce() -> Error) -> Result<()> {
        if self.fails { Err(error()) } else { Ok(()) }
    }

    /// Fails a call that queues something, with nothing queued.
    pub(super) fn refuse_to_queue(self) -> Result<()> {
        self.refuse_with(|| driver(self.call, Errno::IO))
    }

    /// Fails a call that gives something back. It is given back nevertheless: `Drop` has no second chance, and on CUDA such calls report
    /// failures of earlier work too.
    pub(super) fn after_release(self, outcome: Result<()>) -> Result<()> {
        outcome.and_then(|()| self.refuse_with(|| driver(self.call, Errno::IO)))
    }

    /// Fails a call that waits. It has waited nevertheless: after it nothing uses the memory, failed or not.
    pub(super) fn after_wait(self, outcome: Outcome) -> Result<()> {
        let injected = || Error::Stream(format!("injected failure of {}", self.call));
        outcome.map_err(Error::Stream).and_then(|()| self.refuse_with(injected))
    }
}

fn driver(call: &'static str, errno: Errno) -> Error {
    Error::Driver { call, code: errno.raw_os_error(), message: "injected failure".to_owned() }
}
