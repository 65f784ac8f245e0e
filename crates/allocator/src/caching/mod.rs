//! The caching allocator: one heap for all streams, pages that move.

mod allocator;
mod buffer;
mod parse;
mod pressure;
mod settings;
mod statistics;
mod steps;
mod tags;
mod times;

mod ladder;
mod streams;
mod told;

mod bins;
mod block;
mod chunks;
mod core;
mod counts;
mod kept;
mod magazine;
mod magazines;
mod place;
mod ring;
mod segments;
mod steal;
mod uses;

mod audit;

pub use allocator::{Allocator, Handle, OnStream};
pub use buffer::DeviceBuffer;
pub use counts::{Events, Gauge, PoolCounts, Sizes};
pub(crate) use pressure::{Handlers, Presses, ask, is_handling, register};
pub use pressure::{Need, PressureHandler, Registration, Urgency};
pub use ring::{Action, Event};
pub use settings::{Magazines, Settings};
pub use statistics::{AllocatorStatistics, Crumbs, Scope};
pub use steps::{Step, StepHandle, Steps};
pub use tags::Tag;
pub use times::Times;
