//! Torch's own files: a zip archive with a pickle and the raw bytes of the storages beside it.
//!
//! A pickle is a program. This reader runs it on a machine that knows tensors and the containers around them, and nothing else: whatever a
//! pickle would import beyond that is refused by name, before anything of it happens.
//!
//! Sources: the zip format (APPNOTE 6.3), the comments of `CPython`'s `pickletools`, torch's `serialization.py` and `_utils.py` (what `torch.save`
//! writes since 1.6).
mod machine;
mod opcodes;
mod tensors;
mod zip;

use crate::error::Fault;
use crate::header::Entry;

/// The first bytes of an archive. As the length of a safetensors header they would be refused.
const ARCHIVE: &[u8] = b"PK\x03\x04";
/// The first bytes of what `torch.save` wrote before 1.6, and of any bare pickle.
const BARE_PICKLE: u8 = 0x80;

/// The most bytes of a pickle that are read. That of FLUX.1 has 100 kB; what one byte can make is a few hundred bytes.
pub const PICKLE_BYTES_MAX: usize = 1 << 20;

/// What an archive holds, checked against the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Every tensor, in the order of their names; dictionaries within dictionaries are joined by dots.
    pub entries: Vec<Entry>,
    /// Names of the outermost dictionary that are dictionaries themselves.
    pub groups: Vec<String>,
    /// The pickle's bytes in the file.
    pub pickle: std::ops::Range<usize>,
}

impl Archive {
    /// Reads what `torch.save` wrote.
    ///
    /// # Errors
    /// The [`Fault`] that was found first: of the archive, of the pickle, of single tensors.
    pub fn parse(file: &[u8]) -> Result<Self, Fault> {
        let records = zip::records(file)?;
        let pickle = tensors::pickle(&records)?;
        let made = machine::run(&file[pickle.clone()])?;
        let (entries, groups) = tensors::collect(&made, file, &records)?;
        Ok(Self { entries, groups, pickle })
    }
}

/// Whether a file is to be read here rather than as safetensors.
pub(crate) fn is_archive(file: &[u8]) -> bool {
    file.starts_with(ARCHIVE)
}

/// A pickle without an archive around it: torch's format before 1.6.
pub(crate) fn is_bare_pickle(file: &[u8]) -> bool {
    // A safetensors header of that length would begin with a brace behind it.
    file.first() == Some(&BARE_PICKLE)
        && file.get(1).is_some_and(|version| *version <= 5)
        && file.get(8) != Some(&b'{')
}
