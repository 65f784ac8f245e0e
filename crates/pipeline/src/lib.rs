//! Noise, schedules, the denoising loop, and the whole way from prompt to pixels.
#![forbid(unsafe_code)]

mod error;
mod file;
mod noise;
mod schedule;

pub use error::{Error, Result};
pub use noise::{Multiprocessors, Noise};
pub use schedule::{Schedule, SchedulerConfig, Spacing};
