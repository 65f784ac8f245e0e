mod blocks;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use lighterage_checkpoint::{Checkpoint, Tensor};
use serde::Serialize;

use self::blocks::Block;
use super::architecture::Architecture;
use super::readiness::{Readiness, is_pipeline};
use crate::count::counted;
use crate::failure::{Failure, Result};
use crate::size::Size;
use crate::table::{self, Align};
use crate::{json, mapping};

/// Show what a checkpoint is: layout, architecture, tensors, bytes by block, fingerprint.
///
/// Reads headers only, so that a file of 24 GB takes milliseconds; with --check-weights all of it, and the first NaN or infinity is an
/// error. PATH is a safetensors file, an index, a folder with one of them, a .bin or .pth of torch, or the folder of a pipeline (with
/// `model_index.json`) or of an InfiniteYou (with `InfuseNetModel`), whose parts are shown one after the other. The last line says whether a run has
/// all that it needs, with what lies around PATH, and what is missing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lighterage inspect assets/demo/base
  lighterage inspect assets/demo/base/vae --tensors
  lighterage inspect flux1-dev.safetensors --check-weights --json")]
pub(crate) struct Arguments {
    /// What to look at.
    path: PathBuf,
    /// List every tensor: element type, shape, bytes, name.
    #[arg(long)]
    tensors: bool,
    /// Read all weights and look for NaN and infinities.
    #[arg(long)]
    check_weights: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (mut reports, mut role) = (Vec::new(), None);
    for path in parts(&arguments.path)? {
        let checkpoint = mapping::open(&path)?;
        if arguments.check_weights {
            checkpoint.tensors().try_for_each(Tensor::check_finite)?;
        }
        let architecture = Architecture::of(&checkpoint);
        role = architecture.role;
        reports.push(Report::of(&path, &checkpoint, &architecture, arguments.tensors));
    }
    let inspected = Inspected { run: Readiness::of(&arguments.path, role), parts: reports };
    if arguments.json {
        return json::print(&inspected);
    }
    let mut out = crate::output::stdout();
    for part in &inspected.parts {
        part.print(&mut out)?;
    }
    if let Some(run) = &inspected.run {
        writeln!(out, "{run}")?;
    }
    Ok(())
}

/// The checkpoints of a pipeline's folder or of an InfiniteYou's, or the path itself.
fn parts(path: &Path) -> Result<Vec<PathBuf>> {
    if !is_pipeline(path) && !path.join("InfuseNetModel").is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut parts = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let part = entry?.path();
        let is_part = if part.is_dir() { has_weights(&part)? } else { is_weights(&part) };
        parts.extend(is_part.then_some(part));
    }
    parts.sort();
    if parts.is_empty() {
        return Err(Failure::Refused(format!("{}: no part of this pipeline has weights", path.display())));
    }
    Ok(parts)
}

/// A file beside the folders: a pipeline's or what an InfiniteYou's folder holds beside InfuseNet.
fn is_weights(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    path.is_file()
        && (path.extension().is_some_and(|extension| extension == "safetensors")
            || FILES.iter().any(|file| name == *file))
}

/// Torch's files in an InfiniteYou's folder.
const FILES: [&str; 2] = ["image_proj_model.bin", "recognition_arcface_ir_se50.pth"];

fn has_weights(folder: &Path) -> Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") {
            return Ok(true);
        }
    }
    Ok(false)
}

#[derive(Debug, Serialize)]
struct Inspected {
    parts: Vec<Report>,
    /// None where no run reads such a thing.
    run: Option<Readiness>,
}

#[derive(Debug, Serialize)]
struct Report {
    path: PathBuf,
    files: Vec<PathBuf>,
    file_bytes: u64,
    architecture: String,
    /// Whether names and shapes are exactly those of a released checkpoint.
    is_released: bool,
    tensors: usize,
    parameters: u64,
    bytes: u64,
    bytes_by_type: BTreeMap<&'static str, u64>,
    fingerprint: String,
    metadata: BTreeMap<String, String>,
    blocks: Vec<Block>,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<Vec<Listed>>,
}

#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: usize,
}

impl Report {
    fn of(path: &Path, checkpoint: &Checkpoint, architecture: &Architecture, list: bool) -> Self {
        let mut bytes_by_type = BTreeMap::new();
        for tensor in checkpoint.tensors() {
            *bytes_by_type.entry(tensor.dtype().name()).or_insert(0) += tensor.bytes().len() as u64;
        }
        let metadata =
            checkpoint.metadata().into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
        Self {
            path: path.to_owned(),
            files: checkpoint.files().map(|file| file.path.clone()).collect(),
            file_bytes: checkpoint.files().map(|file| file.bytes).sum(),
            architecture: architecture.sentence(path),
            is_released: architecture.released.is_some(),
            tensors: checkpoint.tensors().count(),
            parameters: checkpoint.tensors().map(|tensor| tensor.layout().elements() as u64).sum(),
            bytes: bytes_by_type.values().sum(),
            bytes_by_type,
            fingerprint: checkpoint.fingerprint(),
            metadata: metadata.collect(),
            blocks: blocks::of(checkpoint.tensors()),
            list: list.then(|| checkpoint.tensors().map(listed).collect()),
        }
    }

    fn print(&self, out: &mut impl Write) -> Result<()> {
        let types: Vec<String> = self.bytes_by_type.keys().map(ToString::to_string).collect();
        writeln!(out, "{}", self.path.display())?;
        writeln!(out, "  architecture  {}", self.architecture)?;
        writeln!(out, "  files         {} ({})", self.files.len(), counted(self.file_bytes, "byte"))?;
        let types = if types.is_empty() { String::new() } else { format!(", {}", types.join(" and ")) };
        writeln!(out, "  tensors       {}, {}{types}", self.tensors, counted(self.parameters, "parameter"))?;
        writeln!(out, "  weights       {} ({})", Size(self.bytes), counted(self.bytes, "byte"))?;
        writeln!(out, "  fingerprint   {}", self.fingerprint)?;
        let rows: Vec<_> = self.blocks.iter().map(Block::row).collect();
        table::print(out, &[Align::Left, Align::Right, Align::Right, Align::Right], &rows)?;
        let rows: Vec<_> = self.list.iter().flatten().map(Listed::row).collect();
        table::print(out, &[Align::Left, Align::Left, Align::Right, Align::Left], &rows)?;
        Ok(())
    }
}

fn listed(tensor: &Tensor) -> Listed {
    Listed {
        name: tensor.name().to_owned(),
        dtype: tensor.dtype().name(),
        shape: tensor.shape().to_vec(),
        bytes: tensor.bytes().len(),
    }
}

impl Listed {
    fn row(&self) -> Vec<String> {
        vec![
            format!("    {}", self.dtype),
            format!("{:?}", self.shape),
            self.bytes.to_string(),
            self.name.clone(),
        ]
    }
}
