use std::path::Path;

use lighterage_checkpoint::{Checkpoint, Result, Unmodified};

/// The promise under which this program maps files.
#[expect(unsafe_code, reason = "the one promise that everything below is safe by")]
pub(crate) fn promise() -> Unmodified {
    // SAFETY: this program writes files only beside their place and renames them, so it never changes or truncates a file that it has
    // mapped; that no other process does while it runs is what `lighterage --help` asks of whoever starts it.
    unsafe { Unmodified::promise() }
}

pub(crate) fn open(path: &Path) -> Result<Checkpoint> {
    Checkpoint::open(path, promise())
}
