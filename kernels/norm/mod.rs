//! Launches of the norms.

pub mod rms_norm;
