use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Which file it is, beyond its name: a changed file has another identity.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileIdentity {
    /// Absolute path, symbolic links resolved.
    pub path: PathBuf,
    /// Size of the file.
    pub bytes: u64,
    /// Time of the last change, in nanoseconds since 1970.
    pub modified_ns: i128,
    /// SHA-256 of the header: its length and its JSON; of a torch file its pickle.
    pub header_sha256: [u8; 32],
}

impl fmt::Debug for FileIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({} bytes, modified {} ns, header ",
            self.path.display(),
            self.bytes,
            self.modified_ns
        )?;
        self.header_sha256[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("..)")
    }
}

/// Which tensor it is: the key for everything that is kept by tensor. A name alone is not enough, since two checkpoints share names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorIdentity {
    /// The file.
    pub file: Arc<FileIdentity>,
    /// The tensor's name in it.
    pub name: Arc<str>,
    /// Its first byte, from the start of the file.
    pub offset: u64,
}
