use std::path::{Path, PathBuf};

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the autoencoder could not do its work, with the numbers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something is wrong in a file.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<Error>,
    },
    /// A file could not be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A configuration is not JSON, or lacks a field.
    #[error("configuration: {0}")]
    Json(#[from] serde_json::Error),
    /// A configuration asks for what the model cannot do.
    #[error("configuration: {name} is {got}, should be {needs}")]
    Config {
        /// The field.
        name: &'static str,
        /// Its value.
        got: String,
        /// What it should be.
        needs: &'static str,
    },
    /// An image that the model cannot take.
    #[error("{what} should be {expected}, is {got:?}")]
    Image {
        /// Which image.
        what: &'static str,
        /// Its shape in words.
        expected: String,
        /// Its shape.
        got: Vec<usize>,
    },
    /// A tile that cannot be.
    #[error("a tile of {pixels} pixels; it should be a multiple of {multiple}, at least {least}")]
    Tile {
        /// Pixels along one side.
        pixels: usize,
        /// Pixels that one latent position stands for.
        multiple: usize,
        /// The smallest tile.
        least: usize,
    },
    /// The pager refused: a tensor is missing or misshapen, or a unit came out of order.
    #[error(transparent)]
    Pager(Box<lighterage_pager::Error>),
    /// The checkpoint has no such tensor.
    #[error(transparent)]
    Checkpoint(Box<lighterage_checkpoint::Error>),
    /// An op refused its arguments, or there is no memory.
    #[error(transparent)]
    Ops(Box<lighterage_ops::Error>),
    /// The device refused.
    #[error(transparent)]
    Device(Box<lighterage_device::Error>),
}

impl Error {
    /// Says which file the error is about.
    pub(crate) fn within(self, path: &Path) -> Self {
        Self::File { path: path.to_owned(), source: Box::new(self) }
    }
}

lighterage_ops::boxed_errors! {
    Error:
    Pager(lighterage_pager::Error),
    Checkpoint(lighterage_checkpoint::Error),
    Ops(lighterage_ops::Error),
    Device(lighterage_device::Error),
}
