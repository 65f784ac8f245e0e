use half::{bf16, f16};
use lighterage_checkpoint::{Checkpoint, Tensor as Stored};
use lighterage_device::{Backend, View};
use lighterage_ops::{self as ops, Queue, Tensor};
use lighterage_pager::Pager;
use lighterage_shape::DType;

use crate::{
    Conditioning, Config, Error, InfuseInputs, InfuseNet, Modulations, Residuals, Result, Rope, StepInputs,
    Timesteps, Transformer,
};

/// One velocity from raw inputs, as a diffusers model takes them: a checkpoint with `hidden_states`, `encoder_hidden_states`, `pooled_projections`,
/// `timestep`, `img_ids`, `txt_ids`, where the model wants it `guidance`, and where there are any `controlnet_block_samples.N` and
/// `controlnet_single_block_samples.N`. A batch dimension of 1 may lead. Gives `sample`, `[image, out_channels]`.
///
/// The pager has to take leases in any order ([`Pager::resident`]): both phases are run once.
///
/// # Errors
/// [`Error::Checkpoint`] if an input is missing, [`Error::Input`] if it is misshapen, or what the model reports.
pub fn forward_transformer<B: Backend>(
    model: &Transformer,
    queue: &Queue<B>,
    pager: &Pager<B>,
    inputs: &Checkpoint,
) -> Result<Tensor<B>> {
    let raw = Raw { inputs, queue, dtype: model.dtype() };
    let modulations = raw.condition(|conditioning| model.condition(queue, pager, conditioning))?;
    let text = model.embed_text(queue, pager, raw.matrix("encoder_hidden_states")?.view())?;
    let double = raw.list("controlnet_block_samples")?;
    let single = raw.list("controlnet_single_block_samples")?;
    let (double, single) = (views(&double), views(&single));
    model.step(
        queue,
        pager,
        &StepInputs {
            latents: raw.matrix("hidden_states")?.view(),
            text: text.view(),
            modulations: &modulations,
            rope: &raw.rope(model.config())?,
            residuals: Some(Residuals { double: &double, single: &single, scale: 1.0 }),
        },
    )
}

/// The outputs of an InfuseNet from raw inputs: as [`forward_transformer`], with `controlnet_cond` and `conditioning_scale` (1 if missing) in place of the samples.
/// Gives `controlnet_block_samples.N` and `controlnet_single_block_samples.N`, `[image, width]` each, scaled.
///
/// # Errors
/// As [`forward_transformer`].
pub fn forward_infusenet<B: Backend>(
    model: &InfuseNet,
    queue: &Queue<B>,
    pager: &Pager<B>,
    inputs: &Checkpoint,
) -> Result<Vec<(String, Tensor<B>)>> {
    let raw = Raw { inputs, queue, dtype: model.dtype() };
    let modulations = raw.condition(|conditioning| model.condition(queue, pager, conditioning))?;
    let text = model.embed_text(queue, pager, raw.matrix("encoder_hidden_states")?.view())?;
    let control = model.embed_control(queue, pager, raw.matrix("controlnet_cond")?.view())?;
    let outputs = model.step(
        queue,
        pager,
        &InfuseInputs {
            latents: raw.matrix("hidden_states")?.view(),
            text: text.view(),
            control: control.view(),
            modulations: &modulations,
            rope: &raw.rope(model.config())?,
        },
    )?;
    let scale = raw.number("conditioning_scale")?.unwrap_or(1.0);
    let double = raw.scaled("controlnet_block_samples", outputs.double, scale)?;
    let single = raw.scaled("controlnet_single_block_samples", outputs.single, scale)?;
    Ok(double.into_iter().chain(single).collect())
}

fn views<B: Backend>(list: &[Tensor<B>]) -> Vec<View<'_>> {
    list.iter().map(Tensor::view).collect()
}

/// Inputs in a file, to be put on the device.
struct Raw<'a, B: Backend> {
    inputs: &'a Checkpoint,
    queue: &'a Queue<B>,
    dtype: DType,
}

impl<B: Backend> Raw<'_, B> {
    fn condition(
        &self,
        condition: impl FnOnce(&Conditioning<'_>) -> Result<Modulations<B>>,
    ) -> Result<Modulations<B>> {
        let timesteps = values(self.inputs.tensor("timestep")?)?;
        let guidance = self.number("guidance")?;
        let pooled = self.matrix("pooled_projections")?;
        let modulations = condition(&Conditioning {
            timesteps: Timesteps::Rounded(&timesteps),
            guidance,
            pooled: pooled.view(),
        })?;
        modulations.select(self.queue, 0)?;
        Ok(modulations)
    }

    /// A tensor of two dimensions, behind a batch dimension of 1 or not.
    fn matrix(&self, name: &str) -> Result<Tensor<B>> {
        let stored = self.inputs.tensor(name)?;
        let shape = without_batch(stored)?;
        let values = values(stored)?;
        Ok(match self.dtype {
            DType::Bf16 => {
                let rounded: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
                self.queue.upload(&rounded, &shape, "input")?
            }
            _ => self.queue.upload(&values, &shape, "input")?,
        })
    }

    /// `NAME.0`, `NAME.1` and so on, as many as there are.
    fn list(&self, name: &str) -> Result<Vec<Tensor<B>>> {
        let names = (0..).map(|index| format!("{name}.{index}"));
        names.take_while(|name| self.inputs.get(name).is_some()).map(|name| self.matrix(&name)).collect()
    }

    /// The first element of a tensor, if there is one.
    fn number(&self, name: &str) -> Result<Option<f32>> {
        let values = self.inputs.get(name).map(values).transpose()?;
        Ok(values.and_then(|values| values.first().copied()))
    }

    fn rope(&self, config: &Config) -> Result<Rope<B>> {
        let mut ids = Vec::new();
        for name in ["txt_ids", "img_ids"] {
            let stored = self.inputs.tensor(name)?;
            let [rows, columns] = without_batch(stored)?;
            if columns != 3 {
                return Err(Error::Input {
                    name: name.into(),
                    expected: vec![rows, 3],
                    got: vec![rows, columns],
                });
            }
            ids.extend(values(stored)?.as_chunks::<3>().0);
        }
        Rope::new(self.queue, config, &ids)
    }

    /// Multiplies each tensor, in place, and gives it its name.
    fn scaled(&self, name: &str, tensors: Vec<Tensor<B>>, scale: f32) -> Result<Vec<(String, Tensor<B>)>> {
        let mut named = Vec::new();
        for (index, tensor) in tensors.into_iter().enumerate() {
            let zero = self.queue.tensor(self.dtype, tensor.shape(), "zeros")?;
            self.queue.stream().fill(zero.view(), 0)?;
            let (a, b) = (zero.view(), tensor.view());
            ops::add(self.queue, &ops::Add { a, b, scale, out: b })?;
            named.push((format!("{name}.{index}"), tensor));
        }
        Ok(named)
    }
}

fn without_batch(stored: &Stored) -> Result<[usize; 2]> {
    match *stored.shape() {
        [rows, columns] | [1, rows, columns] => Ok([rows, columns]),
        ref got => {
            let expected = [&[1], got.get(got.len().saturating_sub(2)..).unwrap_or(&[])].concat();
            Err(Error::Input { name: stored.name().to_owned(), expected, got: got.to_vec() })
        }
    }
}

/// All values, as f32.
fn values(stored: &Stored) -> Result<Vec<f32>> {
    let bytes = stored.bytes();
    match stored.dtype() {
        DType::F32 => Ok(bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect()),
        DType::Bf16 => {
            Ok(bytes.as_chunks().0.iter().map(|value| bf16::from_le_bytes(*value).to_f32()).collect())
        }
        DType::F16 => {
            Ok(bytes.as_chunks().0.iter().map(|value| f16::from_le_bytes(*value).to_f32()).collect())
        }
        got => {
            let (path, tensor) = (stored.path().into(), stored.name().to_owned());
            Err(lighterage_pager::Error::DType { path, tensor, got, wanted: DType::F32 }.into())
        }
    }
}
