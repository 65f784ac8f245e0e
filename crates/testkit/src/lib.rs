//! Seeds, generators, comparison, golden files and traces for the tests of the other crates. A dev-dependency only.
//!
//! It knows plain slices and shapes as `&[usize]`: if it used `shape`, that crate's own unit tests would meet two copies of it.
//!
//! A random test takes its numbers from [`Rng::from_env`], which prints its seed: `SEED=n cargo test ...` runs it again. A comparison is
//! a relative Frobenius error against a bound that the test derives, and NaN and infinities must sit in the same places ([`difference`]).
#![forbid(unsafe_code)]

mod compare;
mod golden;
mod rng;
mod traces;

pub use compare::{Difference, assert_close, difference, relative_frobenius};
pub use golden::{Golden, folder};
pub use rng::{Rng, number_from_env};
pub use traces::{MODEL_TRACES, RANDOM_TRACES, trace_bytes};
