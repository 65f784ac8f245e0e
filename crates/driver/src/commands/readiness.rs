use std::fmt;
use std::path::{Path, PathBuf};

use lighterage_identity::{FaceNetwork, find_detector};
use lighterage_pipeline::{Error, InfiniteYou, Model};
use serde::Serialize;

use super::architecture::Role;
use crate::mapping;

/// Whether a checkpoint, with what lies around it, is all that a run needs.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Readiness {
    /// The folder, or the transformer's file, that was looked at as a whole.
    of: PathBuf,
    ready: bool,
    /// What is missing or wrong, each in a line.
    missing: Vec<String>,
    /// What works only with more than is there.
    notes: Vec<String>,
}

/// What a run is made of.
enum Whole {
    /// A FLUX pipeline: --model.
    Pipeline(PathBuf),
    /// --infinite-you.
    InfiniteYou(PathBuf),
}

impl Readiness {
    /// Of a folder of parts, or of the one checkpoint of that role; nothing where no run reads such a thing.
    pub(super) fn of(path: &Path, role: Option<Role>) -> Option<Self> {
        Some(match whole(path, role)? {
            Whole::Pipeline(path) => {
                let missing = missing(Model::open(&path, mapping::promise()));
                Self { ready: missing.is_empty(), missing, notes: Vec::new(), of: path }
            }
            Whole::InfiniteYou(path) => {
                let missing = missing(InfiniteYou::open(&path, mapping::promise()));
                Self { ready: missing.is_empty(), missing, notes: faces(&path), of: path }
            }
        })
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ready {
            true => write!(f, "ready for a run: {}", self.of.display())?,
            false => write!(f, "not ready for a run: {}: {}", self.of.display(), self.missing.join("; "))?,
        }
        self.notes.iter().try_for_each(|note| write!(f, "\nnote: {note}"))
    }
}

fn whole(path: &Path, role: Option<Role>) -> Option<Whole> {
    if path.join("InfuseNetModel").is_dir() {
        return Some(Whole::InfiniteYou(path.to_owned()));
    }
    if is_pipeline(path) {
        return Some(Whole::Pipeline(path.to_owned()));
    }
    let folder = if path.is_dir() { path } else { parent(path) };
    let around = || parent(folder).to_owned();
    Some(match role? {
        // In a file of its own it is what --model is given.
        Role::Transformer if folder.file_name().is_none_or(|name| name != "transformer") => {
            Whole::Pipeline(path.to_owned())
        }
        Role::Autoencoder if path.is_file() && folder.file_name().is_none_or(|name| name != "vae") => {
            Whole::Pipeline(folder.to_owned())
        }
        Role::Transformer | Role::Autoencoder | Role::TextEncoder => Whole::Pipeline(around()),
        Role::InfuseNet => Whole::InfiniteYou(around()),
        Role::Projector => Whole::InfiniteYou(folder.to_owned()),
    })
}

/// Whether a folder is one of a FLUX pipeline: as diffusers writes it, or with the autoencoder of Black Forest Labs in it.
pub(super) fn is_pipeline(path: &Path) -> bool {
    ["model_index.json", "ae.safetensors"].iter().any(|name| path.join(name).is_file())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn missing<T>(opened: Result<T, Error>) -> Vec<String> {
    match opened {
        Ok(_) => Vec::new(),
        Err(Error::Folder { faults, .. } | Error::InfiniteYou { faults, .. }) => faults,
        Err(other) => vec![other.to_string()],
    }
}

/// What a face can be given as, beside an embedding.
fn faces(folder: &Path) -> Vec<String> {
    let mut notes = vec!["a FLUX model (--model) goes with it".to_owned()];
    if FaceNetwork::find(folder, mapping::promise()).is_err() {
        notes.push(
            "it has no face network: a face is --id-embedding, or a photo with --face-models DIR".to_owned(),
        );
    }
    if !matches!(find_detector(folder), Ok(Some(_))) {
        notes.push(
            "it has no detector: a photo comes with keypoints, or --face-models DIR has scrfd_10g_bnkps.onnx"
                .to_owned(),
        );
    }
    notes
}
