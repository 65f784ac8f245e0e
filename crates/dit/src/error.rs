use std::path::PathBuf;

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model could not be made or run, with the numbers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A configuration is not the JSON that it should be.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A configuration has a value that the model cannot have.
    #[error("config: {name} is {got}, should be {needs}")]
    Config {
        /// The value's name.
        name: &'static str,
        /// The value.
        got: String,
        /// What it should be.
        needs: String,
    },
    /// The checkpoint's tensors are named in neither of the two known ways.
    #[error(
        "{}: no FLUX transformer: it has neither \"x_embedder.weight\" (diffusers) nor \"img_in.weight\" (BFL), \
         also not behind \"model.diffusion_model.\"",
        path.display()
    )]
    Layout {
        /// The checkpoint.
        path: PathBuf,
    },
    /// An input has another shape than the model needs.
    #[error("{name} should be {expected:?}, is {got:?}")]
    Input {
        /// The input.
        name: String,
        /// The shape that it should have.
        expected: Vec<usize>,
        /// The shape that it has.
        got: Vec<usize>,
    },
    /// A number among the inputs is outside of what the model can use.
    #[error("{name} is {got}, should be {needs}")]
    Value {
        /// The input.
        name: &'static str,
        /// Its value.
        got: String,
        /// What it should be.
        needs: String,
    },
    /// An op refused.
    #[error(transparent)]
    Ops(Box<lighterage_ops::Error>),
    /// Weights could not be had.
    #[error(transparent)]
    Pager(#[from] lighterage_pager::Error),
    /// A tensor is missing.
    #[error(transparent)]
    Checkpoint(#[from] lighterage_checkpoint::Error),
    /// The device refused.
    #[error(transparent)]
    Device(#[from] lighterage_device::Error),
}

impl From<lighterage_ops::Error> for Error {
    fn from(refused: lighterage_ops::Error) -> Self {
        Self::Ops(Box::new(refused))
    }
}

pub(crate) fn expect_shape(name: &str, got: &[usize], expected: &[usize]) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::Input { name: name.to_owned(), expected: expected.to_vec(), got: got.to_vec() })
}
