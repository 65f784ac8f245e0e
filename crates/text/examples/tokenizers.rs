//! What the two ways to a prompt's ids cost, with the bundled tokenizers: time, and what anonymous memory is left.
//! `cargo run --release -p lighterage-text --example tokenizers ours|crate`, each in a process of its own.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use lighterage_text::{ClipTokenizer, T5Tokenizer};
use tokenizers::models::bpe::BPE;
use tokenizers::{Model, Tokenizer};

const PROMPT: &str = "a man with red hair, smiling";

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/demo/base");
    let (clip, t5) = (base.join("tokenizer"), base.join("tokenizer_2"));
    if std::env::args().nth(1).as_deref() == Some("crate") {
        let file = |name: &str| clip.join(name).to_string_lossy().into_owned();
        let model = timed("CLIP's model of the crate", || {
            BPE::from_file(&file("vocab.json"), &file("merges.txt"))
                .end_of_word_suffix("</w>".to_owned())
                .build()
        })?;
        timed("its ids of a word", || model.tokenize("smiling"))?;
        let whole = timed("T5's tokenizer of the crate", || Tokenizer::from_file(t5.join("tokenizer.json")))?;
        timed("its ids", || whole.encode(PROMPT, true))?;
        return Ok(());
    }
    let clip = ClipTokenizer::open(&clip)?;
    timed("CLIP's ids", || clip.encode(PROMPT, 77))?;
    let t5 = T5Tokenizer::open(&t5)?;
    timed("T5's ids", || t5.encode(PROMPT, 512))?;
    timed("T5's ids once more", || t5.encode(PROMPT, 512))?;
    Ok(())
}

/// Runs `work`; prints how long it took and what anonymous memory the process holds then, and held at most.
#[expect(clippy::print_stdout, reason = "an example shows what it finds")]
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = |key| status.lines().find_map(|line: &str| line.strip_prefix(key)).unwrap_or("?").trim();
    println!("{what}: {milliseconds:.1} ms; RssAnon {}, VmHWM {}", memory("RssAnon:"), memory("VmHWM:"));
    result
}
