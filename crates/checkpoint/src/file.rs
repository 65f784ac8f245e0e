use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use memmap2::{Advice, Mmap};
use sha2::{Digest, Sha256};

use crate::error::{Error, Fault, Result};
use crate::header::{Entry, Header};
use crate::identity::FileIdentity;
use crate::torch::{self, Archive};

/// The promise that nobody changes a checkpoint's files while they are mapped, made once and carried as a value.
#[derive(Clone, Copy, Debug)]
pub struct Unmodified(());

impl Unmodified {
    /// Makes the promise, for every file that is opened with the value or a copy of it.
    ///
    /// # Safety
    /// - No process changes or truncates the files that are opened under this promise while they are mapped.
    #[must_use]
    pub const unsafe fn promise() -> Self {
        Self(())
    }
}

/// A mapped file whose header was checked.
#[derive(Debug)]
pub(crate) struct MappedFile {
    pub(crate) identity: Arc<FileIdentity>,
    pub(crate) metadata: BTreeMap<String, String>,
    /// Names of a pickle's outermost dictionary that are dictionaries; a safetensors file has none.
    pub(crate) groups: Vec<String>,
    content: Content,
}

/// Where a file's bytes are.
#[derive(Debug)]
enum Content {
    Mapped {
        file: File,
        bytes: Mmap,
    },
    /// There is no file: every tensor is the beginning of the same zeros.
    Zeros(Mmap),
}

/// What a file's directory says, whichever of the two formats it has.
struct Directory {
    entries: Vec<Entry>,
    metadata: BTreeMap<String, String>,
    groups: Vec<String>,
    /// The bytes that say it.
    range: Range<usize>,
}

impl Directory {
    fn parse(file: &[u8]) -> Result<Self, Fault> {
        if torch::is_archive(file) {
            let Archive { entries, groups, pickle } = Archive::parse(file)?;
            return Ok(Self { entries, metadata: BTreeMap::new(), groups, range: pickle });
        }
        if torch::is_bare_pickle(file) {
            return Err(Fault::BarePickle);
        }
        let header = Header::parse(file)?;
        let (metadata, range) = (header.metadata().clone(), 0..header.bytes());
        Ok(Self { entries: header.into_entries(), metadata, groups: Vec::new(), range })
    }
}

impl MappedFile {
    /// A file that is not there, whose tensors are zeros; `zeros` is as long as the longest of them.
    pub(crate) fn imagined(identity: FileIdentity, zeros: Mmap) -> Arc<Self> {
        let content = Content::Zeros(zeros);
        Arc::new(Self {
            identity: Arc::new(identity),
            metadata: BTreeMap::new(),
            groups: Vec::new(),
            content,
        })
    }

    /// A tensor's bytes.
    pub(crate) fn bytes(&self, range: &Range<usize>) -> &[u8] {
        match &self.content {
            Content::Mapped { bytes, .. } => &bytes[range.clone()],
            Content::Zeros(zeros) => &zeros[..range.len()],
        }
    }

    /// The whole file, where there is one.
    pub(crate) fn mapping(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Mapped { bytes, .. } => Some(bytes),
            Content::Zeros(_) => None,
        }
    }

    /// Reads from the file itself, past the map.
    pub(crate) fn read_into(&self, offset: usize, target: &mut [u8]) -> Result<()> {
        match &self.content {
            Content::Mapped { file, .. } => {
                file.read_exact_at(target, offset as u64).map_err(io(&self.identity.path, "read it"))
            }
            Content::Zeros(_) => {
                target.fill(0);
                Ok(())
            }
        }
    }

    /// Advice to the system, which it may refuse.
    pub(crate) fn will_need(&self, range: Range<usize>) {
        if let Content::Mapped { bytes, .. } = &self.content {
            let _ = bytes.advise_range(Advice::WillNeed, range.start, range.len());
        }
    }

    pub(crate) fn open(path: &Path, promise: Unmodified) -> Result<(Arc<Self>, Vec<Entry>)> {
        // Looked at before it is opened: opening a pipe would wait for a writer.
        let status = std::fs::metadata(path).map_err(io(path, "open it"))?;
        if !status.is_file() {
            return Err(Error::NotAFile { path: path.to_owned() });
        }
        let (file, bytes) = map(path, promise)?;
        let directory =
            Directory::parse(&bytes).map_err(|fault| Error::Bad { path: path.to_owned(), fault })?;
        let identity = Arc::new(FileIdentity {
            path: path.canonicalize().map_err(io(path, "resolve its path"))?,
            bytes: bytes.len() as u64,
            modified_ns: i128::from(status.mtime()) * 1_000_000_000 + i128::from(status.mtime_nsec()),
            header_sha256: Sha256::digest(&bytes[directory.range]).into(),
        });
        let content = Content::Mapped { file, bytes };
        let file = Self { identity, metadata: directory.metadata, groups: directory.groups, content };
        Ok((Arc::new(file), directory.entries))
    }
}

fn map(path: &Path, _promise: Unmodified) -> Result<(File, Mmap)> {
    let file = File::open(path).map_err(io(path, "open it"))?;
    // SAFETY: the caller holds an `Unmodified`: no process changes or truncates the file while it is mapped.
    let bytes = unsafe { Mmap::map(&file) }.map_err(io(path, "map it"))?;
    Ok((file, bytes))
}

/// For `map_err`: the error of a call on a path.
pub(crate) fn io(path: &Path, call: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Io { path: path.to_owned(), call, source }
}
