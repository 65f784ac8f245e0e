use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// The exit code of a run that Ctrl-C ended: 128 + SIGINT, as shells have it.
pub(crate) const EXIT_CODE: u8 = 130;

/// From now on Ctrl-C asks to stop after the current step of the loop, or before the next phase; a second one ends the process at once.
pub(crate) fn install() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        if REQUESTED.swap(true, Ordering::Relaxed) {
            // Outputs are renamed into place when they are whole, so nothing under their names is broken by this.
            std::process::exit(EXIT_CODE.into());
        }
    })
}

/// Whether somebody pressed Ctrl-C.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}
