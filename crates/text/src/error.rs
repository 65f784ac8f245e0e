use std::path::{Path, PathBuf};

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a text encoder or its tokenizer could not do its work, with the numbers.
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
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A configuration asks for what the model cannot do.
    #[error("{name} is {got}, should be {needs}")]
    Config {
        /// The field.
        name: &'static str,
        /// Its value.
        got: String,
        /// What it should be.
        needs: &'static str,
    },
    /// A token that the model has no embedding for.
    #[error("token id {id} at position {position} is not in the vocabulary of {vocabulary} ({tensor})")]
    Id {
        /// The id.
        id: u32,
        /// Where in the sequence it is.
        position: usize,
        /// Rows of the table.
        vocabulary: usize,
        /// The table.
        tensor: String,
    },
    /// A configuration and the table of positions do not agree.
    #[error("max_position_embeddings is {configured}, {tensor} has {rows} rows")]
    Positions {
        /// What the configuration says.
        configured: usize,
        /// What the table has.
        rows: usize,
        /// The table.
        tensor: String,
    },
    /// A sequence without tokens, or longer than the model has positions.
    #[error("{got} tokens, should be 1 to {longest}")]
    Length {
        /// Tokens given.
        got: usize,
        /// The most there can be.
        longest: usize,
    },
    /// None of the files that a tokenizer can be made from is there.
    #[error("{}: no tokenizer here, needs {needs}", folder.display())]
    NoTokenizer {
        /// The folder that was searched.
        folder: PathBuf,
        /// The files that would do.
        needs: &'static str,
    },
    /// A tokenizer's file is not what it should be, or its text could not be split.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
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
