use std::fmt;
use std::marker::PhantomData;

use lighterage_shape::{DType, Layout};

use crate::{Address, Result, StreamId};

/// A tensor in device memory as a launch sees it: where it starts and how it is laid out.
///
/// A view is `Copy`, like a pointer, and lives no longer than the memory it points into. It does not say who may write: device
/// memory is shared and ordered by streams, so any number of views of one tensor may exist, and the checks of an op refuse an output that
/// overlaps an input where the kernel does not allow it. The one stream that orders all work on the memory is part of the view: another stream
/// refuses it.
#[derive(Clone, Copy)]
pub struct View<'a> {
    address: Address,
    layout: Layout,
    owner: StreamId,
    memory: PhantomData<&'a [u8]>,
}

impl<'a> View<'a> {
    /// A view of memory at `address`.
    ///
    /// # Safety
    /// - All work on this memory that is not ordered by events runs on the stream `owner`.
    /// - [`Layout::span_bytes`] bytes from `address` on are mapped device memory during `'a`, and stay mapped until all work that was
    ///   launched on this view during `'a` is done.
    #[must_use]
    pub const unsafe fn new(address: Address, layout: Layout, owner: StreamId) -> Self {
        Self { address, layout, owner, memory: PhantomData }
    }

    /// Where the first element is.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// The stream that orders all work on this memory.
    #[must_use]
    pub const fn owner(&self) -> StreamId {
        self.owner
    }

    /// Element type, shape and strides.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Element type.
    #[must_use]
    pub const fn dtype(&self) -> DType {
        self.layout.dtype()
    }

    /// Extents, outermost first.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        self.layout.shape()
    }

    /// Strides in elements.
    #[must_use]
    pub fn strides(&self) -> &[usize] {
        self.layout.strides()
    }

    /// The sub-range `start..start + length` of one dimension.
    ///
    /// # Errors
    /// As [`Layout::narrow`].
    pub fn narrow(&self, dimension: usize, start: usize, length: usize) -> Result<Self> {
        let layout = self.layout.narrow(dimension, start, length)?;
        let elements = if length == 0 { 0 } else { start * self.layout.strides()[dimension] };
        let address = self.address.offset((elements * self.dtype().bytes()) as u64);
        Ok(Self { address, layout, ..*self })
    }

    /// `narrow` of the first dimension.
    ///
    /// # Errors
    /// As [`Layout::narrow`].
    pub fn rows(&self, start: usize, length: usize) -> Result<Self> {
        self.narrow(0, start, length)
    }

    /// Splits a dimension into `[parts, extent / parts]`, for instance columns into heads.
    ///
    /// # Errors
    /// As [`Layout::split`].
    pub fn split(&self, dimension: usize, parts: usize) -> Result<Self> {
        Ok(Self { layout: self.layout.split(dimension, parts)?, ..*self })
    }

    /// Exchanges two dimensions.
    ///
    /// # Errors
    /// As [`Layout::transpose`].
    pub fn transpose(&self, a: usize, b: usize) -> Result<Self> {
        Ok(Self { layout: self.layout.transpose(a, b)?, ..*self })
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// As [`Layout::reshape`].
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        Ok(Self { layout: self.layout.reshape(shape)?, ..*self })
    }

    /// Whether the byte ranges of two views meet (their gaps count as part of them).
    #[must_use]
    pub fn overlaps(&self, other: &View<'_>) -> bool {
        let end = |view: &View<'_>| view.address.0 + view.layout.span_bytes() as u64;
        self.layout.span_bytes() > 0
            && other.layout.span_bytes() > 0
            && self.address.0 < end(other)
            && other.address.0 < end(self)
    }
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No address: a debug print may end up in a result, and results hold no addresses.
        write!(f, "View({:?})", self.layout)
    }
}
