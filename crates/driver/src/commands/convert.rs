use std::borrow::Cow;
use std::path::PathBuf;

use half::{bf16, f16};
use lighterage_checkpoint::{Checkpoint, Planned, Tensor, write_streamed};
use lighterage_shape::DType;

use crate::failure::{Failure, Result};
use crate::size::Size;
use crate::{mapping, output};

/// Write a checkpoint anew: a torch pickle as safetensors, several shards as one file, f32 weights as bf16.
///
/// One tensor at a time is in memory. Nothing needs it: every other command reads pickles, shards and f32 weights as they are. It saves disk, and the
/// conversion while loading.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lighterage convert image_proj_model.bin image_proj_model.safetensors
  lighterage convert InfuseNetModel infusenet.safetensors --dtype bf16")]
pub(crate) struct Arguments {
    /// A checkpoint: a safetensors file, an index, a folder with one of them, or a .bin or .pth of torch.
    from: PathBuf,
    /// The safetensors file to write.
    to: PathBuf,
    /// Element type of all floats of 16 and 32 bits; without it they keep theirs. F64 and integers always do.
    #[arg(long, value_enum)]
    dtype: Option<Float>,
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

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    output::check(&arguments.to)?;
    let checkpoint = mapping::open(&arguments.from)?;
    refuse_itself(arguments, &checkpoint)?;
    let tensors: Vec<&Tensor> = checkpoint.tensors().collect();
    let wanted = |tensor: &Tensor| match arguments.dtype {
        Some(float) if is_float(tensor.dtype()) => match float {
            Float::Bf16 => DType::Bf16,
            Float::F32 => DType::F32,
        },
        _ => tensor.dtype(),
    };
    let planned: Vec<Planned<'_>> = tensors
        .iter()
        .map(|tensor| Planned {
            name: tensor.name().strip_prefix(&arguments.strip).unwrap_or_else(|| tensor.name()),
            dtype: wanted(tensor),
            shape: tensor.shape(),
        })
        .collect();
    write_streamed(&arguments.to, &planned, |index| converted(tensors[index], planned[index].dtype))?;
    let bytes: u64 = planned
        .iter()
        .map(|tensor| (tensor.shape.iter().product::<usize>() * tensor.dtype.bytes()) as u64)
        .sum();
    output::note(&format!("{}: {} tensors, {}", arguments.to.display(), planned.len(), Size(bytes)));
    Ok(())
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

/// The values in the wanted type; by way of f32, which holds all of them.
fn converted(tensor: &Tensor, wanted: DType) -> Cow<'_, [u8]> {
    if tensor.dtype() == wanted {
        return Cow::Borrowed(tensor.bytes());
    }
    let bytes = tensor.bytes();
    let (pairs, quads) = (bytes.as_chunks::<2>().0, bytes.as_chunks::<4>().0);
    let write = |value: f32, out: &mut Vec<u8>| match wanted {
        DType::Bf16 => out.extend(bf16::from_f32(value).to_le_bytes()),
        _ => out.extend(value.to_le_bytes()),
    };
    let mut out = Vec::with_capacity(tensor.layout().elements() * wanted.bytes());
    match tensor.dtype() {
        DType::F16 => pairs.iter().for_each(|value| write(f16::from_le_bytes(*value).to_f32(), &mut out)),
        DType::Bf16 => pairs.iter().for_each(|value| write(bf16::from_le_bytes(*value).to_f32(), &mut out)),
        _ => quads.iter().for_each(|value| write(f32::from_le_bytes(*value), &mut out)),
    }
    Cow::Owned(out)
}
