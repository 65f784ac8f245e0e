//! Any bytes: refused, or tensors that lie inside of the file and have the bytes of their layouts.
//!
//! `.ci/run fuzz` runs it for a while, guided by coverage, on stable Rust and without a sanitizer; for longer, and with one, `cargo +nightly fuzz run
//! header corpus/header fuzz/seeds/header -- -dict=fuzz/header.dict`, from `crates/checkpoint`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lighterage_checkpoint::Header;

fuzz_target!(|file: &[u8]| {
    if let Ok(header) = Header::parse(file) {
        for entry in header.entries() {
            assert_eq!(file[entry.range.clone()].len(), entry.layout.bytes(), "{entry:?}");
        }
    }
});
