use std::path::{Path, PathBuf};

use lighterage_device::View;
use lighterage_shape::DType;

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
    /// Something is wrong in a file.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<Error>,
    },
    /// A configuration has a value that the model cannot have.
    #[error("{name} is {got}, should be {needs}")]
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
    /// A tensor that the model has no place for.
    #[error("{}: tensor {tensor:?} is none of a FLUX transformer's", path.display())]
    Leftover {
        /// The checkpoint.
        path: PathBuf,
        /// The first of such tensors.
        tensor: String,
    },
    /// A low-rank adapter that does not fit.
    #[error("{}: {tensor:?}: {message}", path.display())]
    Adapter {
        /// The file.
        path: PathBuf,
        /// The tensor or module.
        tensor: String,
        /// What is wrong.
        message: String,
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
    /// An input has another element type than the model.
    #[error("{name} should be {expected}, is {got}")]
    DType {
        /// The input.
        name: String,
        /// The model's element type.
        expected: DType,
        /// That of the input.
        got: DType,
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
    Pager(Box<lighterage_pager::Error>),
    /// A tensor is missing.
    #[error(transparent)]
    Checkpoint(Box<lighterage_checkpoint::Error>),
    /// The device refused.
    #[error(transparent)]
    Device(Box<lighterage_device::Error>),
}

impl Error {
    /// Says which file a value is from.
    pub(crate) fn within(self, path: &Path) -> Self {
        match self {
            Self::Config { .. } => Self::File { path: path.into(), source: Box::new(self) },
            other => other,
        }
    }
}

lighterage_ops::boxed_errors! {
    Error:
    Ops(lighterage_ops::Error),
    Pager(lighterage_pager::Error),
    Checkpoint(lighterage_checkpoint::Error),
    Device(lighterage_device::Error),
}

pub(crate) fn expect_shape(name: &str, got: &[usize], expected: &[usize]) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::Input { name: name.to_owned(), expected: expected.to_vec(), got: got.to_vec() })
}

/// Element type and shape of an input.
pub(crate) fn expect_view(name: &str, view: View<'_>, dtype: DType, shape: &[usize]) -> Result<()> {
    if view.dtype() != dtype {
        return Err(Error::DType { name: name.to_owned(), expected: dtype, got: view.dtype() });
    }
    expect_shape(name, view.shape(), shape)
}

/// The rows of an input that should be `[rows, columns]`; any number of rows will do.
pub(crate) fn expect_rows(name: &str, view: View<'_>, dtype: DType, columns: usize) -> Result<usize> {
    let rows = view.shape().first().copied().unwrap_or(0);
    expect_view(name, view, dtype, &[rows, columns])?;
    Ok(rows)
}
