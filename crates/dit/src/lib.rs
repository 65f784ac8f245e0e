//! The FLUX transformer: config, blocks, hoisted modulation.
#![forbid(unsafe_code)]

mod attention;
mod config;
mod derive;
mod double_block;
mod error;
mod infusenet;
mod linear;
mod loader;
mod modulation;
mod names;
mod norm;
mod raw;
mod residuals;
mod rope;
mod single_block;
mod transformer;
mod trunk;
mod views;

pub use config::Config;
pub use error::{Error, Result};
pub use infusenet::{InfuseInputs, InfuseNet, InfuseOutputs};
pub use modulation::{Conditioning, Modulations};
pub use raw::{forward_infusenet, forward_transformer};
pub use residuals::Residuals;
pub use rope::Rope;
pub use transformer::{StepInputs, Transformer};
