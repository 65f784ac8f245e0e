//! Noise, schedules, the denoising loop, and the whole way from prompt to pixels.
#![forbid(unsafe_code)]

mod noise;
mod schedule;

mod observer;
mod stage;

mod forecast;
mod report;

mod denoiser;

mod folder;
mod model;
mod options;

mod job;
mod picture;
mod trajectory;

mod error;
mod file;
mod tensor;

pub use denoiser::{Conditions, Denoiser, IN_FLIGHT_MAX, Prompted};
pub use error::{Error, Result};
pub use forecast::{Forecast, Need, PhaseForecast, Shortage, Survey};
pub use job::Job;
pub use model::Model;
pub use noise::{Multiprocessors, Noise};
pub use observer::Observer;
pub use options::{Grid, Options, SEQUENCE_MAX, SIDE_MAX, SIDE_STEP, STEPS_MAX};
pub use picture::{Keep, Picture, PromptValues};
pub use report::{PhaseReport, Report};
pub use schedule::{Schedule, SchedulerConfig, Spacing};
pub use stage::Phase;
pub use trajectory::{Latents, Trajectory};
