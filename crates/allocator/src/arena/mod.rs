//! One range of addresses for one stream, where placement depends on the sequence of requests alone.

mod heap;
mod pages;
mod placement;
mod pool;
mod recording;

pub(crate) use heap::Heap;
pub use placement::Placement;
pub use pool::{ALIGNMENT_BYTES, Buffer, Config, Pool, Statistics};
pub use recording::Recording;
