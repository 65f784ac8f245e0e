//! The integration tests of the whole workspace, in one binary.

mod building;
mod headers;
mod launches;
mod pack;
#[cfg(feature = "cuda")]
mod sass;
mod sources;
mod tidy;
