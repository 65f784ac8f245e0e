//! The numerics of the kernels, on the emulator or on a GPU by the same bodies (`runs.rs` says which): results against fp64, poisoned outputs, guards around every buffer, the
//! same bits in every run. And, on the emulator only: planted bugs that have to be found, clean kernels that must not be accused, the ladder.
//!
//! Inputs are drawn (normal, peaky, one-hot, of large means, constant, permuted), and beside them each family has what the bundled model gave its kernels late in a run (`late.rs`).
//!
//! On a GPU: `NUMERICS=cuda cargo test -p lighterage-kernels --features cuda --test emu`; on the stand-in for one: `stand_in.rs`.
#![cfg(any(feature = "emu", feature = "cuda"))]

mod attention;
mod bounds;
mod buffer;
mod conv2d;
#[cfg(feature = "emu")]
mod device;
mod elementwise;
mod gpu;
#[cfg(feature = "emu")]
mod ladder;
mod late;
#[cfg(feature = "emu")]
mod layouts;
mod linear;
mod norms;
mod numerics;
#[cfg(feature = "emu")]
mod planted;
mod product;
mod rms_norm;
mod rope;
mod runs;
mod softmax;
#[cfg(feature = "emu")]
mod stand_in;
