//! One range of addresses for one stream, where placement depends on the sequence of requests alone.

mod heap;
mod pages;
mod pool;

pub(crate) use heap::Heap;
pub use pool::{ALIGNMENT_BYTES, Buffer, Config, Pool, Statistics};
