//! The pipeline as a whole, in one program: what is generic over the device is compiled once.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail")]
#![expect(clippy::print_stdout, reason = "what a test measured, with -- --nocapture")]

mod arena;
mod budget;
mod builtin;
mod calls;
mod common;
mod graphs;
mod infinite_you;
mod model;
mod noise;
mod parity;
mod schedule;
mod seen;
mod trajectory;
