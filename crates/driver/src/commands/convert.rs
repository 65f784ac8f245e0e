use std::borrow::Cow;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use lighterage_checkpoint::{Checkpoint, Planned, Recipe, Tensor, write_streamed};
use lighterage_shape::DType;

use super::architecture::{Architecture, Role};
use super::readiness::Readiness;
use crate::count::counted;
use crate::failure::{Failure, Result};
use crate::size::Size;
use crate::{interrupt, mapping, output};

/// Write a checkpoint anew: a torch pickle as safetensors, several shards as one file, f32 weights as bf16, BFL's layout as diffusers'.
///
/// One tensor at a time is in memory. Nothing needs it: every other command reads pickles, shards, f32 weights and both layouts as they are. It saves disk,
/// and the conversion while loading. A released checkpoint is known by its fingerprint, whatever its file is called, and what a run needs beside it is said.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lighterage convert image_proj_model.bin image_proj_model.safetensors
  lighterage convert InfuseNetModel infusenet.safetensors --dtype bf16
  lighterage convert flux1-dev.safetensors transformer/diffusion_pytorch_model.safetensors --layout diffusers
  lighterage convert ae.safetensors vae/diffusion_pytorch_model.safetensors --layout diffusers")]
pub(crate) struct Arguments {
    /// A checkpoint: a safetensors file, an index, a folder with one of them, or a .bin or .pth of torch.
    from: PathBuf,
    /// The safetensors file to write.
    to: PathBuf,
    /// Element type of all floats of 16 and 32 bits; without it they keep theirs. F64 and integers always do.
    #[arg(long, value_enum)]
    dtype: Option<Float>,
    /// Whose names to give the tensors of a FLUX transformer or autoencoder; without it they keep theirs.
    #[arg(long, value_enum)]
    layout: Option<Layout>,
    /// Leave out this much of the front of every name, where it is there; for instance `image_proj.`.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    strip: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Float {
    /// Rounded to nearest, ties to even.
    Bf16,
    /// Exact.
    F32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Layout {
    /// q, k, v and MLP apart, scale before shift in the last modulation, the autoencoder's attention as matrices.
    Diffusers,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    output::check(&arguments.to)?;
    let checkpoint = mapping::open(&arguments.from)?;
    refuse_itself(arguments, &checkpoint)?;
    let architecture = Architecture::of(&checkpoint);
    let mut recipes = recipes(arguments, &checkpoint, &architecture)?;
    for recipe in &mut recipes {
        recipe.name = recipe.name.strip_prefix(&arguments.strip).unwrap_or(&recipe.name).to_owned();
    }
    let planned = recipes
        .iter()
        .map(|recipe| planned(recipe, &checkpoint, arguments.dtype))
        .collect::<Result<Vec<_>>>()?;
    let values = |index: usize| {
        if interrupt::requested() {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        let made = made(&recipes[index], &checkpoint, planned[index].dtype);
        made.map_err(|failure| std::io::Error::other(failure.to_string()))
    };
    interrupt::leave_to_command();
    let written = write_streamed(&arguments.to, &planned, values);
    if written.is_err() && interrupt::requested() {
        return Err(Failure::Interrupted(format!("stopped before {} was written", arguments.to.display())));
    }
    written?;
    let bytes: u64 = planned
        .iter()
        .map(|tensor| (tensor.shape.iter().product::<usize>() * tensor.dtype.bytes()) as u64)
        .sum();
    output::note(&format!("{}: {}", arguments.from.display(), architecture.sentence(&arguments.from)));
    let tensors = counted(planned.len(), "tensor");
    output::note(&format!("{}: {tensors}, {}", arguments.to.display(), Size(bytes)));
    report(&arguments.to)
}

/// What was written, and what a run needs beside it where it lies now.
fn report(path: &Path) -> Result<()> {
    let written = mapping::open(path)?;
    let architecture = Architecture::of(&written);
    output::note(&format!("{}: {}", path.display(), architecture.sentence(path)));
    if let Some(run) = Readiness::of(path, architecture.role) {
        output::note(&run.to_string());
    }
    Ok(())
}

/// What the tensors to be written are made of.
fn recipes(
    arguments: &Arguments,
    checkpoint: &Checkpoint,
    architecture: &Architecture,
) -> Result<Vec<Recipe>> {
    let Some(Layout::Diffusers) = arguments.layout else {
        return Ok(checkpoint.tensors().map(|tensor| Recipe::whole(tensor.name(), tensor)).collect());
    };
    match architecture.role {
        Some(Role::Transformer) => Ok(lighterage_dit::diffusers_layout(checkpoint)?),
        Some(Role::Autoencoder) => Ok(lighterage_vae::diffusers_layout(checkpoint)),
        _ => Err(Failure::Usage(format!(
            "{}: --layout diffusers is for a FLUX transformer or autoencoder; this is: {}",
            arguments.from.display(),
            architecture.what
        ))),
    }
}

fn planned<'r>(recipe: &'r Recipe, checkpoint: &Checkpoint, float: Option<Float>) -> Result<Planned<'r>> {
    let stored = stored(recipe, checkpoint)?;
    let dtype = match float {
        Some(Float::Bf16) if is_float(stored) => DType::Bf16,
        Some(Float::F32) if is_float(stored) => DType::F32,
        _ => stored,
    };
    Ok(Planned { name: &recipe.name, dtype, shape: &recipe.shape })
}

/// The element type of all its pieces.
fn stored(recipe: &Recipe, checkpoint: &Checkpoint) -> Result<DType> {
    let types = recipe.pieces.iter().map(|piece| checkpoint.tensor(&piece.tensor).map(Tensor::dtype));
    let types = types.collect::<Result<Vec<_>, _>>()?;
    match types.iter().find(|other| **other != types[0]) {
        Some(other) => {
            Err(Failure::Refused(format!("{}: it is made of {} and {other}", recipe.name, types[0])))
        }
        None => Ok(types[0]),
    }
}

/// The values in the wanted type.
fn made<'c>(recipe: &Recipe, checkpoint: &'c Checkpoint, wanted: DType) -> Result<Cow<'c, [u8]>> {
    let stored = stored(recipe, checkpoint)?;
    Ok(match recipe.bytes(checkpoint)? {
        bytes if stored == wanted => bytes,
        bytes => Cow::Owned(converted(&bytes, stored, wanted)),
    })
}

/// The file that is read stays mapped while the other is written.
fn refuse_itself(arguments: &Arguments, checkpoint: &Checkpoint) -> Result<()> {
    let to = arguments.to.canonicalize().unwrap_or_else(|_| arguments.to.clone());
    if checkpoint.files().any(|file| file.path == to) {
        let path = arguments.to.display();
        return Err(Failure::Usage(format!("{path} is the file that is to be converted: give another name")));
    }
    Ok(())
}

const fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::Bf16 | DType::F16)
}

/// By way of f32, which holds all values of both.
fn converted(bytes: &[u8], stored: DType, wanted: DType) -> Vec<u8> {
    let (pairs, quads) = (bytes.as_chunks::<2>().0, bytes.as_chunks::<4>().0);
    let write = |value: f32, out: &mut Vec<u8>| match wanted {
        DType::Bf16 => out.extend(bf16::from_f32(value).to_le_bytes()),
        _ => out.extend(value.to_le_bytes()),
    };
    let mut out = Vec::with_capacity(bytes.len() / stored.bytes() * wanted.bytes());
    match stored {
        DType::F16 => pairs.iter().for_each(|value| write(f16::from_le_bytes(*value).to_f32(), &mut out)),
        DType::Bf16 => pairs.iter().for_each(|value| write(bf16::from_le_bytes(*value).to_f32(), &mut out)),
        _ => quads.iter().for_each(|value| write(f32::from_le_bytes(*value), &mut out)),
    }
    out
}
