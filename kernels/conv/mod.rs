//! Launches of the convolutions and what goes with them.

pub mod upsample;
