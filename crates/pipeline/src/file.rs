//! Reading small files, with the path in every error.
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// A JSON file.
pub(crate) fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Json { path: path.to_owned(), source })
}
