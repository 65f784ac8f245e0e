//! Finds tensors in safetensors files, sharded or single (skeleton).
#![allow(missing_docs, clippy::todo, clippy::missing_errors_doc, reason = "skeleton")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lighterage_shape::{DType, Layout};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{}: tensor {tensor:?} is missing", path.display())]
    Missing { path: PathBuf, tensor: String },
    // To come: Io, Truncated, Overlap, Oversized, Misaligned, DuplicateKey, ... each with file, tensor and numbers.
}

/// The promise that nobody changes a checkpoint's files while they are mapped, made once and carried as a value.
#[derive(Clone, Copy, Debug)]
pub struct Unmodified(());

impl Unmodified {
    /// # Safety
    /// - No process changes or truncates the files that are opened under this promise while they are mapped.
    #[must_use]
    pub const unsafe fn promise() -> Self {
        Self(())
    }
}

/// A set of named tensors, in one file, several shards, or a folder of a diffusers pipeline.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
}

impl Checkpoint {
    /// A file, an index (`*.safetensors.index.json`), or a folder that holds one of the two.
    pub fn open(_path: &Path, _promise: Unmodified) -> Result<Self> {
        todo!()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensor of that name, if there is one.
    pub fn get(&self, _name: &str) -> Option<&Tensor> {
        todo!()
    }

    /// The tensor of that name, or [`Error::Missing`].
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.get(name).ok_or_else(|| Error::Missing { path: self.path.clone(), tensor: name.to_owned() })
    }

    /// All tensors, in the order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        std::iter::empty()
    }
}

/// One tensor in a mapped file; a clone keeps the file mapped.
#[derive(Clone, Debug)]
pub struct Tensor {
    name: Arc<str>,
    layout: Layout,
}

impl Tensor {
    pub fn name(&self) -> &str {
        &self.name
    }
    pub fn dtype(&self) -> DType {
        self.layout.dtype()
    }
    pub fn shape(&self) -> &[usize] {
        self.layout.shape()
    }
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
    /// The file that it is in.
    pub fn path(&self) -> &Path {
        todo!()
    }
    /// Its bytes, in the mapped file.
    pub fn bytes(&self) -> &[u8] {
        todo!()
    }
}
