//! Any text as RMM's log: refused, or a trace that is the same after it was written and read.
//!
//! `.ci/run fuzz` runs it for a while; `cargo +nightly fuzz run log corpus/log fuzz/seeds/log -- -dict=fuzz/log.dict`, from `crates/allocator`, for longer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lighterage_allocator::Trace;

fuzz_target!(|text: &str| {
    if let Ok(trace) = Trace::from_rmm_csv(text) {
        assert_eq!(Trace::from_rmm_csv(&trace.to_rmm_csv()), Ok(trace));
    }
});
