//! Tokenizers and text encoders as a whole, in one program: what is generic over the device is compiled once.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail")]
#![expect(clippy::print_stdout, reason = "what a test measured, with -- --nocapture")]

mod budgets;
mod common;
mod files;
mod golden;
mod layouts;
mod models;
mod refusals;
mod tokens;
