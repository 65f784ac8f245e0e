//! The caching device allocator (skeleton).
#![allow(missing_docs, clippy::todo, reason = "skeleton")]

use std::sync::Arc;

use lighterage_device::{Address, Backend, Device, Purpose, Stream, StreamId};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Device(#[from] lighterage_device::Error),
}

/// How a [`Pool`] is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// What its chunks are charged as.
    pub purpose: Purpose,
    /// Address space reserved once: the most that can ever be live.
    pub reserve_bytes: u64,
}

/// Counters in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes handed out now, rounded to the alignment.
    pub allocated_bytes: u64,
    /// The most ever handed out at once since the last reset.
    pub allocated_peak_bytes: u64,
    /// Physical bytes held now.
    pub reserved_bytes: u64,
    /// The most physical bytes held since the last reset.
    pub reserved_peak_bytes: u64,
    /// Allocations made.
    pub allocations: u64,
}

/// Hands out device memory for one stream, in stream order. Cloning shares it.
#[derive(Debug)]
pub struct Pool<B: Backend> {
    _inner: Arc<Stream<B>>,
}

impl<B: Backend> Clone for Pool<B> {
    fn clone(&self) -> Self {
        Self { _inner: Arc::clone(&self._inner) }
    }
}

impl<B: Backend> Pool<B> {
    pub fn new(_stream: &Stream<B>, _config: Config) -> Result<Self> {
        todo!()
    }

    /// `bytes` (at least 1) of memory, aligned to 512 bytes; `tag` says what for.
    pub fn allocate(&self, _bytes: u64, _tag: &'static str) -> Result<Buffer<B>> {
        todo!()
    }

    pub fn device(&self) -> &Device<B> {
        todo!()
    }

    pub fn stream(&self) -> &Stream<B> {
        todo!()
    }

    /// Gives physical pages that hold nothing back to the ledger; waits for the stream. Returns the bytes given back.
    pub fn trim(&self) -> Result<u64> {
        todo!()
    }

    pub fn statistics(&self) -> Statistics {
        todo!()
    }

    /// Sets both peaks to the present values.
    pub fn reset_peaks(&self) {
        todo!()
    }
}

/// Device memory, given back to its pool on drop, to be used again by later work of the same stream.
#[derive(Debug)]
pub struct Buffer<B: Backend> {
    _pool: Pool<B>,
}

impl<B: Backend> Buffer<B> {
    pub fn address(&self) -> Address {
        todo!()
    }
    /// Bytes asked for.
    pub fn bytes(&self) -> u64 {
        todo!()
    }
    pub fn owner(&self) -> StreamId {
        todo!()
    }
}
