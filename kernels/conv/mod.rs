//! Launches of the convolutions and what goes with them.

pub mod conv2d;
pub mod upsample;
