//! Any bytes as a memory snapshot or as a trace of records or columns: refused, or a trace that can be written and read again.
//!
//! `.ci/run fuzz` runs it for a while; `cargo +nightly fuzz run snapshot corpus/snapshot fuzz/seeds/snapshot -- -dict=fuzz/snapshot.dict`, from `crates/allocator`, for longer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lighterage_allocator::Trace;

fuzz_target!(|bytes: &[u8]| {
    for trace in [Trace::from_snapshot(bytes), Trace::from_binary(bytes), Trace::from_columns(bytes)]
        .into_iter()
        .flatten()
    {
        let _ = trace.peak_bytes();
        assert_eq!(Trace::from_binary(&trace.to_binary()).as_ref(), Ok(&trace));
        assert_eq!(Trace::from_columns(&trace.to_columns()).as_ref(), Ok(&trace));
    }
});
