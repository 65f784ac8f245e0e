//! Ctrl-C, and the other signals that ask a process to end: SIGTERM (`kill`, `timeout`, a scheduler) and SIGHUP (the terminal is gone).
//!
//! A thread waits for them. The first one ends the process at once, with a sentence: an output is there whole or not at all, since it is renamed into place, and what
//! lies beside its place until then is written [`undisturbed`]. Runs of many steps and files too large to wait for [ask by themselves](leave_to_command) whether to stop.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::failure::Failure;

/// The first signal that came; 0: none.
static SIGNAL: AtomicU8 = AtomicU8::new(0);

/// Whoever holds this is not ended by a signal.
static STATE: Mutex<State> = Mutex::new(State { is_left_to_command: false, folders: Vec::new() });

struct State {
    /// Whether the command asks by itself.
    is_left_to_command: bool,
    /// To be removed before the process ends.
    folders: Vec<PathBuf>,
}

/// From now on SIGINT, SIGTERM and SIGHUP end the command in order. One that whoever started it has ignored stays so: `nohup` does that to SIGHUP.
pub(crate) fn install() -> io::Result<()> {
    let ignored = ignored(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
    let meant = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
    let mut signals = Signals::new(meant)?;
    let wait = move || signals.forever().for_each(come);
    thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    Ok(())
}

/// The signals that this process ignores: bit 0 is signal 1.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// The terminal and the shell both send a SIGHUP, and `timeout` sends two SIGTERM: only a second Ctrl-C means more than the first.
fn come(signal: i32) {
    let number = u8::try_from(signal).unwrap_or(u8::MAX);
    let is_first = SIGNAL.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed).is_ok();
    let state = state();
    if !state.is_left_to_command {
        // What cannot be removed is left to the system: there is no better moment.
        state.folders.iter().for_each(|folder| drop(std::fs::remove_dir_all(folder)));
        let _ = Failure::Interrupted("stopped before it was done".to_owned()).report();
    }
    if !state.is_left_to_command || (!is_first && signal == SIGINT) {
        // At once, without the driver's own ends: the main thread may be in the middle of a call of it.
        low_level::exit(exit_code().into());
    }
}

/// The exit code of a run that a signal ended: 128 + its number, as shells have it.
pub(crate) fn exit_code() -> u8 {
    128 + SIGNAL.load(Ordering::Relaxed)
}

/// Whether somebody asked to stop.
pub(crate) fn requested() -> bool {
    SIGNAL.load(Ordering::Relaxed) != 0
}

/// From now on the command asks by itself whether to stop, and a signal ends nothing; but a second Ctrl-C does, at once, and may leave a hidden file beside an output.
pub(crate) fn leave_to_command() {
    state().is_left_to_command = true;
}

/// Does what no signal is to end halfway: the process ends behind it. For what is short, and not inside of itself.
pub(crate) fn undisturbed<T>(work: impl FnOnce() -> T) -> T {
    let _state = state();
    work()
}

/// A folder that goes away with this, or with the process that a signal ends.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A new one inside of a folder.
    pub(crate) fn inside(folder: &Path) -> io::Result<Self> {
        let mut state = state();
        let path = tempfile::tempdir_in(folder)?.keep();
        state.folders.push(path.clone());
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to the system.
        let _ = std::fs::remove_dir_all(&self.0);
        state().folders.retain(|folder| *folder != self.0);
    }
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_what_linux_says() {
        let status =
            "Name:\tx\nSigBlk:\t0000000000000004\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000004002\n";
        assert_eq!(ignored(status), 0x1001, "SIGHUP and SIGPIPE");
        assert_eq!(ignored(""), 0);
    }

    #[test]
    fn a_folder_of_no_further_use_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::inside(folder.path()).unwrap();
        std::fs::write(scratch.path().join("weights"), "x").unwrap();
        drop(scratch);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
