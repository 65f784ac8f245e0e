use std::fs::File;
use std::io;

use rustix::fs::{Advice, fadvise};

/// Drops what the system keeps of a file in memory, as far as it was written to disk and nobody maps it: for measurements that start cold.
///
/// # Errors
/// What the system answers.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let file = tempfile::tempfile()?;
/// lighterage_device::drop_from_page_cache(&file)
/// # }
/// ```
pub fn drop_from_page_cache(file: &File) -> io::Result<()> {
    Ok(fadvise(file, 0, None, Advice::DontNeed)?)
}
