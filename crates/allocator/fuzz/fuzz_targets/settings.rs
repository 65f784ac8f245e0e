//! Any text: refused with a place within it, or settings that read back as the same.
//!
//! `.ci/run fuzz` runs it for a while; `cargo +nightly fuzz run settings corpus/settings fuzz/seeds/settings -- -dict=fuzz/settings.dict`, from `crates/allocator`, for longer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lighterage_allocator::{Error, Settings};

fuzz_target!(|text: &str| {
    match Settings::parse(text) {
        Ok(settings) => assert_eq!(Settings::parse(&settings.to_string()), Ok(settings)),
        Err(Error::Settings { position, .. }) => assert!(text.is_char_boundary(position)),
        Err(error) => panic!("{error}"),
    }
});
