use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use lighterage_shape::{DType, Layout};

use crate::error::Result;
use crate::file::MappedFile;
use crate::header::Entry;
use crate::identity::TensorIdentity;

/// One tensor in a mapped file; a clone keeps the file mapped.
#[derive(Clone, Debug)]
pub struct Tensor {
    name: Arc<str>,
    layout: Layout,
    range: Range<usize>,
    file: Arc<MappedFile>,
}

impl Tensor {
    /// The entry was read from the file's own header, which puts its range inside of the file.
    pub(crate) fn new(file: &Arc<MappedFile>, entry: Entry) -> Self {
        Self { name: entry.name.into(), layout: entry.layout, range: entry.range, file: Arc::clone(file) }
    }

    /// Its name in the file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Element type.
    #[must_use]
    pub const fn dtype(&self) -> DType {
        self.layout.dtype()
    }

    /// Extents.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        self.layout.shape()
    }

    /// Element type and shape, in C order.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The file that it is in: absolute, symbolic links resolved.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.identity.path
    }

    /// Its bytes, in the mapped file, little-endian; as many as the layout has, aligned for the element type.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.file.bytes(&self.range)
    }

    /// The whole mapped file that the bytes lie in; none for one of [shapes](crate::Checkpoint::of_shapes), which has no file.
    #[must_use]
    pub fn mapping(&self) -> Option<&[u8]> {
        self.file.mapping()
    }

    /// Reads some of its bytes from the file, past the map: no page of the process's own is taken for them, and a file that is shorter than it was is an error
    /// and not a signal.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) with the file.
    ///
    /// # Panics
    /// If the bytes from `offset` on are not the tensor's.
    pub fn read_into(&self, offset: usize, target: &mut [u8]) -> Result<()> {
        let end = offset + target.len();
        assert!(end <= self.range.len(), "{offset}..{end} of {} bytes", self.range.len());
        self.file.read_into(self.range.start + offset, target)
    }

    /// Tells the system that these of its bytes will be read soon, so that they are on their way from the disk by then. Nobody waits for them here, and nothing
    /// else changes: where the system takes no such advice they are read when they are wanted.
    ///
    /// # Panics
    /// If the range is not within [`bytes`](Self::bytes).
    pub fn will_need(&self, bytes: Range<usize>) {
        assert!(
            bytes.start <= bytes.end && bytes.end <= self.range.len(),
            "{bytes:?} of {} bytes",
            self.range.len()
        );
        self.file.will_need(self.range.start + bytes.start..self.range.start + bytes.end);
    }

    /// Where its bytes are in the file, from the file's start.
    #[must_use]
    pub const fn file_range(&self) -> &Range<usize> {
        &self.range
    }

    /// Which tensor of which file it is: the key for everything that is kept by tensor.
    #[must_use]
    pub fn identity(&self) -> TensorIdentity {
        TensorIdentity {
            file: Arc::clone(&self.file.identity),
            name: Arc::clone(&self.name),
            offset: self.range.start as u64,
        }
    }

    pub(crate) fn shared_name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }
}
