use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::Pod;
use lighterage_device::{Address, Backend, Stream, StreamId};

use super::allocator::{Allocator, Handle};
use crate::Result;

/// Device memory for `length` values of a type. Dropping it gives the memory back without waiting and without a driver call.
#[derive(Debug)]
pub struct DeviceBuffer<B: Backend, T> {
    allocator: Arc<Allocator<B>>,
    handle: Handle,
    owner: StreamId,
    length: usize,
    values: PhantomData<fn() -> T>,
}

impl<B: Backend, T: Pod> DeviceBuffer<B, T> {
    pub(super) const fn new(
        allocator: Arc<Allocator<B>>,
        handle: Handle,
        owner: StreamId,
        length: usize,
    ) -> Self {
        Self { allocator, handle, owner, length, values: PhantomData }
    }

    /// First byte.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.handle.address()
    }

    /// How many values.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether it holds no value.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The stream that orders all work on it.
    #[must_use]
    pub const fn owner(&self) -> StreamId {
        self.owner
    }

    /// Notes that another stream uses it too: see [`Allocator::used_on`].
    ///
    /// # Errors
    /// As [`Allocator::used_on`].
    pub fn used_on(&self, stream: &Stream<B>) -> Result<()> {
        self.allocator.used_on(self.handle, stream)
    }
}

impl<B: Backend, T> Drop for DeviceBuffer<B, T> {
    fn drop(&mut self) {
        // The buffer owns its handle, so it is not stale.
        let _ = self.allocator.free(self.handle);
    }
}
