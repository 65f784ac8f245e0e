//! Launches of the matrix products.

pub mod linear;
