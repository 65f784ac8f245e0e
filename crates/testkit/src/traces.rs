use std::io::Read;
use std::path::Path;

/// Those of `benches/traces` that are of models.
pub const MODEL_TRACES: [&str; 7] =
    ["llm_gen", "llm_train", "llm_train_ckpt", "sd_resident", "sd_offload", "sd_offload_2s", "llm_gen_2s"];

/// Random ones, as RMM's benchmark draws them.
pub const RANDOM_TRACES: [&str; 2] = ["rmm_10000_64", "rmm_10000_4096"];

/// The bytes of an allocation trace of `benches/traces`, unpacked: the columns that the allocator's `Trace::from_columns` reads.
///
/// # Panics
/// If it is not there or is not whole.
#[must_use]
pub fn trace_bytes(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../benches/traces/{name}.columns.zst"));
    let whole = |error: &dyn std::fmt::Display| -> ! { panic!("{}: {error}", path.display()) };
    let file = std::fs::File::open(&path).unwrap_or_else(|error| whole(&error));
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(file).unwrap_or_else(|error| whole(&error));
    let mut bytes = Vec::new();
    decoder.read_to_end(&mut bytes).unwrap_or_else(|error| whole(&error));
    bytes
}
