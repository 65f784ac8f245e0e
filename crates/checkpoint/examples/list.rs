//! Lists what is in a checkpoint: `cargo run -p lighterage-checkpoint --example list -- assets/demo/base/vae`.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use lighterage_checkpoint::{Checkpoint, Unmodified};

fn main() -> Result<(), Box<dyn Error>> {
    let bundled = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/demo/base/transformer");
    let path = std::env::args_os().nth(1).unwrap_or_else(|| bundled.into());
    // SAFETY: this process only lists the files; whoever runs the example does not change them meanwhile.
    let promise = unsafe { Unmodified::promise() };
    let checkpoint = Checkpoint::open(Path::new(&path), promise)?;

    let mut out = std::io::stdout().lock();
    for tensor in checkpoint.tensors() {
        writeln!(
            out,
            "{:>12} bytes  {:<24} {}",
            tensor.bytes().len(),
            tensor.layout().to_string(),
            tensor.name()
        )?;
    }
    writeln!(out, "fingerprint {}", checkpoint.fingerprint())?;
    Ok(())
}
