//! Launches of the convolutions.

pub mod conv2d;
