//! Seeds, generators, comparison and golden files for the tests of the other crates. A dev-dependency only.
//!
//! It knows plain slices and shapes as `&[usize]`: if it used `shape`, that crate's own unit tests would meet two copies of it.
#![forbid(unsafe_code)]

mod compare;
mod golden;
mod rng;

pub use compare::{Difference, assert_close, difference, relative_frobenius};
pub use golden::{Golden, folder};
pub use rng::Rng;
