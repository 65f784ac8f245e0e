//! The decoder and encoder as a whole, in one program: what is generic over the device is compiled once.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail")]
#![expect(clippy::print_stdout, reason = "what a test measured, with -- --nocapture")]

mod common;
mod golden;
mod layouts;
mod refusals;
mod tiled;
