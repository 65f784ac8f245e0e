//! A stand-in for `libcuda.so.1`, for tests: what this project calls of the CUDA driver API, done on this machine's processor.
//!
//! No GPU is needed to run the `Cuda` backend against it, whole pictures included: device memory is a file in memory, mapped where it would
//! be mapped; kernels run on the emulator (feature `emu`), by the name, grid, parameters and tensor maps of the launch. It is *stricter* than a
//! driver where the documentation leaves room:
//!
//! * Work is done as late as allowed, when somebody waits for it. A source that changed too early, or an event that nobody waited for, shows.
//! * Fresh memory, pinned memory too, is full of 0xFF.
//! * Every call but those that say so wants a current context, and every handle has to be alive.
//! * Failed work ends the context: every later call answers its error.
//!
//! cuBLASLt is in it too (`blas.rs`), as far as it is called: products by three algorithms that add in three orders, within the workspace that they are given.
//!
//! It is written from the documentation of the driver API and shares nothing with the bindings that the backend uses, so a wrong number or field on
//! either side is a failed test. What only a GPU can say is in `docs/GPU-CHECKS.md`.
//!
//! # Use
//!
//! Put a link `libcuda.so.1` to `liblighterage_fakecuda.so` into a folder and that folder into `LD_LIBRARY_PATH`. [`library`] finds the file beside a test's
//! own. A second link, `libcublasLt.so.13`, makes it cuBLASLt too. The environment says what it pretends to be: `FAKECUDA_CAPABILITY` (9.0; `7.5,9.0`: one of each), `FAKECUDA_INIT` (0, what `cuInit` answers), `FAKECUDA_DRIVER` (13000), `FAKECUDA_MEMORY` in bytes
//! (4 GiB), `FAKECUDA_VMM` (1), `FAKECUDA_REGISTER` (1), `FAKECUDA_DEVICES` (1; with 0 `cuInit` finds none, as a driver does), `FAKECUDA_CUBLASLT` (130100, its version), `FAKECUDA_CHECKS` (0; 1: kernels run with the race detector, launches that overlap with what those before them may still touch). `FAKECUDA_FAIL` makes one call of a whole program fail, by its name: with `cuLaunchKernel:2` the third launch. `FAKECUDA_SLOW` names calls that take some time before they begin. `fakecuda_fail` makes a
//! call fail, `fakecuda_fail_twice` also its repetition, `fakecuda_left` counts what was not given back: see `control.rs`.
//!
//! # Unsafe code
//!
//! All of `exports.rs` is: the functions are called through a C interface, with pointers that the caller vouches for.

mod abi;
mod blas;
mod control;
mod driver;
mod exports;
mod kernels;
mod memory;
mod product;
mod streams;
mod system;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the shared library lies: beside the test that asks, as cargo builds it.
#[must_use]
pub fn library() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let name = "liblighterage_fakecuda.so";
    // Tests lie in `deps`, where the library is; programs one folder above.
    let folder = program.parent()?;
    [folder.join(name), folder.join("deps").join(name)].into_iter().find(|path| path.is_file())
}

/// Puts a link to the library, under the driver's name, into a folder.
///
/// # Errors
/// What the system says, also if the library is not there.
pub fn link_into(folder: &Path) -> io::Result<()> {
    let library = library().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    std::os::unix::fs::symlink(library, folder.join("libcuda.so.1"))
}

/// As [`link_into`], under the name of cuBLASLt.
///
/// # Errors
/// As [`link_into`].
pub fn link_products_into(folder: &Path) -> io::Result<()> {
    let library = library().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    std::os::unix::fs::symlink(library, folder.join("libcublasLt.so.13"))
}

/// Says to a test that it runs in a process of its own, on the stand-in.
pub const INSIDE: &str = "FAKECUDA_INSIDE";

/// A process of this very test program, on the stand-in in `folder`, that runs the one test of that name; it finds [`INSIDE`] in its environment.
///
/// # Errors
/// What the system says.
pub fn rerun(test: &str, folder: &Path) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    command.env("LD_LIBRARY_PATH", folder).env(INSIDE, "1");
    Ok(command)
}
