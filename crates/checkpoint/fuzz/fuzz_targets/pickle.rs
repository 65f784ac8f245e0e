//! Any bytes: refused, or tensors that lie inside of the file and have the bytes of their layouts.
//!
//! Run as `header.rs` says; golden files make a good corpus too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lighterage_checkpoint::Archive;

fuzz_target!(|file: &[u8]| {
    if let Ok(archive) = Archive::parse(file) {
        for entry in &archive.entries {
            assert_eq!(file[entry.range.clone()].len(), entry.layout.bytes(), "{entry:?}");
        }
    }
});
