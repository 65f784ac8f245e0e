//! Launches of the norms.

pub mod group_norm;
pub mod layer_norm;
pub mod norm_mod;
pub mod rms_norm;
mod rows;
pub mod softmax;
