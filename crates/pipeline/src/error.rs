use std::path::PathBuf;

use crate::{Phase, Shortage};

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a picture cannot be made, with its numbers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is no JSON, or its values are not of the types that they should be.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// A configuration asks for something that does not exist here.
    #[error("{}: {field} is {got}, should be {expected}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value.
        got: String,
        /// What would do.
        expected: String,
    },
    /// A folder is no FLUX pipeline: everything that is missing or of the wrong class.
    #[error("{}: no FLUX pipeline: {}", path.display(), faults.join("; "))]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong, one sentence each.
        faults: Vec<String>,
    },
    /// A folder is no InfiniteYou: everything that is missing.
    #[error("{}: no InfiniteYou: {}", path.display(), faults.join("; "))]
    InfiniteYou {
        /// The folder.
        path: PathBuf,
        /// What is wrong, one sentence each.
        faults: Vec<String>,
    },
    /// An option is outside of what can be done.
    #[error("{name} is {got}, should be {needs}")]
    Option {
        /// The option.
        name: &'static str,
        /// Its value.
        got: String,
        /// What would do, with numbers.
        needs: String,
    },
    /// A tensor that was given has another shape or type than the run needs.
    #[error("{}: tensor {tensor:?} should be {expected}, is {got}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: &'static str,
        /// The shape or type that it should have.
        expected: String,
        /// What it has.
        got: String,
    },
    /// The budget is too small. Nothing was done.
    #[error("{0}")]
    Shortage(Box<Shortage>),
    /// The budget of pinned host memory is too small. Nothing was done.
    #[error(
        "the {phase} phase needs {needed_bytes} bytes of pinned host memory for weights on their way to the device, {free_bytes} {} left, {} missing; \
         a larger --vram keeps more weights on the device and fewer on the host",
        if *free_bytes == 1 { "is" } else { "are" },
        needed_bytes - free_bytes
    )]
    HostShortage {
        /// The phase that needs most.
        phase: Phase,
        /// What it needs.
        needed_bytes: u64,
        /// What the host's ledger has left.
        free_bytes: u64,
    },
    /// A forecast was made for another kind of run.
    #[error("the forecast has no {phase} phase: it was made for another run")]
    Unplanned {
        /// The phase.
        phase: Phase,
    },
    /// The caller asked to stop in the loop. Everything is released.
    #[error("stopped after step {done} of {steps}")]
    Cancelled {
        /// Steps done.
        done: usize,
        /// Steps of the whole run.
        steps: usize,
    },
    /// The caller asked to stop, and the phase before was done. Everything is released.
    #[error("stopped before the {phase} phase")]
    CancelledBefore {
        /// The phase that did not begin.
        phase: Phase,
    },
    /// A text encoder or a tokenizer refused.
    #[error(transparent)]
    Text(Box<lighterage_text::Error>),
    /// The transformer refused.
    #[error(transparent)]
    Transformer(Box<lighterage_dit::Error>),
    /// The decoder refused.
    #[error(transparent)]
    Vae(Box<lighterage_vae::Error>),
    /// The projector refused.
    #[error(transparent)]
    Identity(Box<lighterage_identity::Error>),
    /// A checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(Box<lighterage_checkpoint::Error>),
    /// Weights cannot be had.
    #[error(transparent)]
    Pager(Box<lighterage_pager::Error>),
    /// An op refused.
    #[error(transparent)]
    Ops(Box<lighterage_ops::Error>),
    /// There is no memory.
    #[error(transparent)]
    Allocator(Box<lighterage_allocator::Error>),
    /// The device refused.
    #[error(transparent)]
    Device(Box<lighterage_device::Error>),
}

lighterage_ops::boxed_errors! {
    Error:
    Text(lighterage_text::Error),
    Transformer(lighterage_dit::Error),
    Vae(lighterage_vae::Error),
    Identity(lighterage_identity::Error),
    Checkpoint(lighterage_checkpoint::Error),
    Pager(lighterage_pager::Error),
    Ops(lighterage_ops::Error),
    Allocator(lighterage_allocator::Error),
    Device(lighterage_device::Error),
}

impl From<Shortage> for Error {
    fn from(shortage: Shortage) -> Self {
        Self::Shortage(Box::new(shortage))
    }
}

/// Refuses an option.
pub(crate) fn option<T>(
    name: &'static str,
    got: impl std::fmt::Display,
    needs: impl Into<String>,
) -> Result<T> {
    Err(Error::Option { name, got: got.to_string(), needs: needs.into() })
}
