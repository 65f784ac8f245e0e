//! The device that the checks run on as `Cuda`, and what only `Cuda` promises.
//!
//! Without a GPU the checks are run a second time, in processes of their own, on the stand-in for the driver.

use lighterage_device::{Cuda, CudaConfig, Error};
#[cfg(feature = "emu")]
use lighterage_fakecuda as fake;
use lighterage_kernels::images::{self, Image};
use lighterage_kernels::launch::Arch;

use crate::CAPACITY;

/// What the stand-in loads where no image was compiled: it takes the kernels from the emulator, by name.
static STAND_IN: [Image; 1] = [Image::new("self_test.cu", &BYTES.0, &["self_test_add_one"], &Arch::ALL)];

#[repr(align(64))]
struct Aligned([u8; 8]);
static BYTES: Aligned = Aligned(*b"stand-in");

/// The kernels.
pub(crate) fn images() -> &'static [Image] {
    if images::ALL.is_empty() { &STAND_IN } else { images::ALL }
}

/// Whether this is a run on the stand-in.
pub(crate) fn is_inside() -> bool {
    std::env::var_os("FAKECUDA_INSIDE").is_some()
}

/// The first GPU, if there is one; else a word about why not.
pub(crate) fn device() -> Option<Cuda> {
    let config = CudaConfig { capacity_bytes: Some(CAPACITY), images: images(), ..CudaConfig::default() };
    match Cuda::new(config) {
        Ok(cuda) => Some(cuda),
        Err(error) => {
            assert!(matches!(error, Error::NoDevice { .. }), "{error}");
            assert!(!is_inside(), "no stand-in: {error}");
            println!("not on cuda: {error}");
            None
        }
    }
}

/// Every check of this program that runs on all backends, on the stand-in, with the race detector.
#[cfg(feature = "emu")]
#[test]
fn all_checks_hold_on_the_stand_in() {
    if is_inside() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fake::link_into(folder.path()).unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["graphs::", "memory::", "streams::"])
        .env("LD_LIBRARY_PATH", folder.path())
        .env(fake::INSIDE, "1")
        .env("FAKECUDA_CHECKS", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("events_order_streams_both_ways ... ok"), "{text}");
    assert!(text.contains("flags_order_two_graphs_that_wait_for_each_other ... ok"), "{text}");
}
