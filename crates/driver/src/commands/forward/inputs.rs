use std::path::{Path, PathBuf};

use half::bf16;
use lighterage_checkpoint::{Checkpoint, Tensor as Stored};
use lighterage_device::Backend;
use lighterage_ops::{Queue, Tensor};
use lighterage_shape::DType;

use crate::failure::{Failure, Result};
use crate::mapping;
use crate::number::{Number, numbers};

/// The names that weights go by, in diffusers' and transformers' folders.
const WEIGHTS: [&str; 5] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "image_proj_model.bin",
];

/// A folder of configuration, weights and inputs.
pub(super) struct Folder {
    pub(super) config: PathBuf,
    pub(super) weights: Checkpoint,
    pub(super) inputs: Checkpoint,
}

impl Folder {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let weights = WEIGHTS.iter().map(|name| dir.join(name)).find(|path| path.exists());
        Ok(Self {
            config: dir.join("config.json"),
            weights: mapping::open(&weights.unwrap_or_else(|| dir.join(WEIGHTS[0])))?,
            inputs: mapping::open(&dir.join("inputs.safetensors"))?,
        })
    }

    /// `input_ids`, `[tokens]` or `[1, tokens]`.
    pub(super) fn ids(&self) -> Result<Vec<u32>> {
        let stored = self.inputs.tensor("input_ids")?;
        if !matches!(stored.shape(), [_] | [1, _]) {
            return Err(misshapen(stored, "[tokens] or [1, tokens]"));
        }
        numbers(stored).enumerate().map(|(index, number)| id(stored, index, number)).collect()
    }

    /// All values of a tensor, whatever its shape.
    pub(super) fn values(&self, name: &str) -> Result<Vec<f32>> {
        Ok(reals(self.inputs.tensor(name)?))
    }

    /// A picture `[1, channels, height, width]` or without the 1, as values and its last three extents.
    pub(super) fn picture(&self, name: &str) -> Result<(Vec<f32>, [usize; 3])> {
        let stored = self.inputs.tensor(name)?;
        match *stored.shape() {
            [channels, height, width] | [1, channels, height, width] => {
                Ok((reals(stored), [channels, height, width]))
            }
            _ => Err(misshapen(stored, "[1, channels, height, width]")),
        }
    }
}

/// Puts values on the device in the given type, rounded to nearest.
pub(super) fn upload<B: Backend>(
    queue: &Queue<B>,
    dtype: DType,
    values: &[f32],
    shape: &[usize],
) -> Result<Tensor<B>> {
    match dtype {
        DType::Bf16 => {
            let rounded: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
            Ok(queue.upload(&rounded, shape, "input")?)
        }
        _ => Ok(queue.upload(values, shape, "input")?),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "inputs are f32, or rounded to it")]
fn reals(stored: &Stored) -> Vec<f32> {
    numbers(stored).map(|number| number.real() as f32).collect()
}

fn id(stored: &Stored, index: usize, number: Number) -> Result<u32> {
    let value = match number {
        Number::Integer(value) => u32::try_from(value).ok(),
        Number::Real(_) => None,
    };
    value.ok_or_else(|| {
        let (file, name) = (stored.path().display(), stored.name());
        Failure::Refused(format!(
            "{file}: tensor {name:?} has {} at element {index}, which is no token id",
            number.real()
        ))
    })
}

fn misshapen(stored: &Stored, expected: &str) -> Failure {
    let (file, name, got) = (stored.path().display(), stored.name(), stored.layout());
    Failure::Refused(format!("{file}: tensor {name:?} should be {expected}, is {got}"))
}
