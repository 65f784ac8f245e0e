//! Launches of the norms.

pub mod rms_norm;
pub mod softmax;
