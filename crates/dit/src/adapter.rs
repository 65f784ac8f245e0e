use std::collections::BTreeMap;

use half::{bf16, f16};
use lighterage_checkpoint::{Checkpoint, Tensor};
use lighterage_shape::DType;

use crate::{Error, Result};

/// Low-rank changes to a transformer's linears (`LoRA`, Hu et al. 2021), from one or several files: `W x` becomes `W x + s (alpha / rank) B (A x)`.
///
/// Each file may spell its modules in any of the ways that are about: PEFT and diffusers (`transformer.transformer_blocks.0.attn.to_q.lora_A.weight`), kohya
/// (`lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight`), BFL (`double_blocks.0.img_attn.qkv.lora_A.weight`) or `XLabs`
/// (`double_blocks.0.processor.qkv_lora1.down.weight`), whichever way the model is spelled. `alpha` is that of each module; without one it is the rank.
///
/// `A` and `B` stay apart from `W`: the sum is taken of outputs, never of weights, so that it is the same for weights that stay on the device and for those
/// that pass through, and nothing is rounded twice.
///
/// Source of the spellings: diffusers (`lora_conversion_utils.py`), DiffSynth-Studio (`utils/lora/flux.py`).
#[derive(Debug, Default)]
pub struct Adapters {
    files: Vec<File>,
}

/// One file.
#[derive(Debug)]
struct File {
    checkpoint: Checkpoint,
    scale: f32,
    /// By the module's name, dots and underscores alike.
    pairs: BTreeMap<String, Pair>,
}

/// The tensors of one module.
#[derive(Clone, Debug, Default, PartialEq)]
struct Pair {
    down: Option<String>,
    up: Option<String>,
    alpha: Option<f32>,
}

/// A change to some rows of a stored linear.
#[derive(Clone, Debug)]
pub(crate) struct Change<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) down: &'a Tensor,
    pub(crate) up: &'a Tensor,
    /// Of the file times `alpha / rank`.
    pub(crate) scale: f32,
}

/// What a name of a tensor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Down,
    Up,
    Alpha,
}

const ENDINGS: [(&str, Role); 10] = [
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    (".down.weight", Role::Down),
    (".up.weight", Role::Up),
];
const ALPHA: &str = ".alpha";

/// Before the module's own name, any of them.
const PREFIXES: [&str; 6] = [
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "lora_unet_",
    "lora_transformer_",
];

/// Modules of the text encoders, which are not changed here.
const TEXT_ENCODERS: [&str; 4] = ["lora_te", "text_encoder", "te1.", "te2."];

/// `XLabs` names what it changes by the processor around it.
const PROCESSORS: [(&str, &str); 6] = [
    ("_processor_qkv_lora1", "_img_attn_qkv"),
    ("_processor_proj_lora1", "_img_attn_proj"),
    ("_processor_qkv_lora2", "_txt_attn_qkv"),
    ("_processor_proj_lora2", "_txt_attn_proj"),
    ("_processor_qkv_lora", "_linear1"),
    ("_processor_proj_lora", "_linear2"),
];

impl Adapters {
    /// Adds a file, to be applied with `scale` after those before it. Gives the number of its tensors that are for the text encoders: those are not applied.
    ///
    /// # Errors
    /// [`Error::Adapter`] for a tensor whose name is none of the known or says the same as another's, half of a pair, or an alpha that is no number.
    pub fn add(&mut self, checkpoint: Checkpoint, scale: f32) -> Result<usize> {
        let (mut pairs, mut left_out) = (BTreeMap::<String, Pair>::new(), 0);
        for tensor in checkpoint.tensors() {
            let name = tensor.name();
            if TEXT_ENCODERS.iter().any(|prefix| name.starts_with(prefix)) {
                left_out += 1;
                continue;
            }
            let Some((module, role)) = parse(name) else {
                return refuse(
                    &checkpoint,
                    name,
                    "its name is none that LoRA files for FLUX are known to use",
                );
            };
            let pair = pairs.entry(module).or_default();
            let is_second = match role {
                Role::Down => pair.down.replace(name.to_owned()).is_some(),
                Role::Up => pair.up.replace(name.to_owned()).is_some(),
                Role::Alpha => match number(tensor) {
                    Some(alpha) if alpha.is_finite() => pair.alpha.replace(alpha).is_some(),
                    _ => return refuse(&checkpoint, name, "an alpha should be one finite number"),
                },
            };
            if is_second {
                return refuse(&checkpoint, name, "its module has such a tensor under another name already");
            }
        }
        if let Some((module, _)) = pairs.iter().find(|(_, pair)| pair.down.is_none() || pair.up.is_none()) {
            return refuse(&checkpoint, module, "it has one of two factors only");
        }
        self.files.push(File { checkpoint, scale, pairs });
        Ok(left_out)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The changes to a stored module, in the order of the files.
    pub(crate) fn of<'a>(&'a self, module: &str) -> impl Iterator<Item = Result<Change<'a>>> + 'a {
        let key = joined(module);
        self.files.iter().filter_map(move |file| file.change(file.pairs.get(&key)?).transpose())
    }

    /// Refuses files with modules that the model does not have; `has` tells.
    pub(crate) fn check(&self, has: impl Fn(&str) -> bool) -> Result<()> {
        for file in &self.files {
            if let Some((_, pair)) = file.pairs.iter().find(|(module, _)| !has(module)) {
                let name = pair.down.as_deref().unwrap_or_default();
                return refuse(&file.checkpoint, name, "the model has no such module");
            }
        }
        Ok(())
    }
}

impl File {
    fn change(&self, pair: &Pair) -> Result<Option<Change<'_>>> {
        let (Some(down), Some(up)) = (&pair.down, &pair.up) else { return Ok(None) };
        let checkpoint = &self.checkpoint;
        let (down, up) = (checkpoint.tensor(down)?, checkpoint.tensor(up)?);
        let rank = down.shape().first().copied().unwrap_or(0);
        if rank == 0 || up.shape().get(1) != Some(&rank) {
            let message =
                format!("its factors {:?} and {:?} have no rank in common", down.shape(), up.shape());
            return refuse(checkpoint, down.name(), &message);
        }
        #[expect(clippy::cast_precision_loss, reason = "ranks are below 2^24")]
        let scale = self.scale * pair.alpha.map_or(1.0, |alpha| alpha / rank as f32);
        Ok(Some(Change { checkpoint, down, up, scale }))
    }
}

/// Dots and underscores are one, since kohya writes the one for the other.
pub(crate) fn joined(module: &str) -> String {
    module.replace('.', "_")
}

/// The module, joined, and what the tensor is of it.
fn parse(name: &str) -> Option<(String, Role)> {
    let endings = ENDINGS.into_iter().chain([(ALPHA, Role::Alpha)]);
    let (module, role) =
        endings.into_iter().find_map(|(ending, role)| Some((name.strip_suffix(ending)?, role)))?;
    let mut module = module;
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| module.strip_prefix(prefix)) {
        module = rest;
    }
    let module = joined(module);
    let processor =
        PROCESSORS.iter().find_map(|(theirs, ours)| Some(format!("{}{ours}", module.strip_suffix(theirs)?)));
    Some((processor.unwrap_or(module), role))
}

/// The value of a tensor with one element.
fn number(tensor: &Tensor) -> Option<f32> {
    let bytes = tensor.bytes();
    match tensor.dtype() {
        DType::F32 => Some(f32::from_le_bytes(bytes.try_into().ok()?)),
        DType::Bf16 => Some(bf16::from_le_bytes(bytes.try_into().ok()?).to_f32()),
        DType::F16 => Some(f16::from_le_bytes(bytes.try_into().ok()?).to_f32()),
        #[expect(clippy::cast_possible_truncation, reason = "an alpha is a small number")]
        DType::F64 => Some(f64::from_le_bytes(bytes.try_into().ok()?) as f32),
        #[expect(clippy::cast_precision_loss, reason = "an alpha is a small number")]
        DType::I64 => Some(i64::from_le_bytes(bytes.try_into().ok()?) as f32),
        _ => None,
    }
}

pub(crate) fn refuse<T>(checkpoint: &Checkpoint, tensor: &str, message: &str) -> Result<T> {
    let (path, tensor, message) = (checkpoint.path().to_owned(), tensor.to_owned(), message.to_owned());
    Err(Error::Adapter { path, tensor, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_four_spellings_are_one() {
        let of_q = "transformer_blocks_3_attn_to_q";
        let of_qkv = "double_blocks_0_img_attn_qkv";
        for (name, module, role) in [
            ("transformer.transformer_blocks.3.attn.to_q.lora_A.weight", of_q, Role::Down),
            ("base_model.model.transformer_blocks.3.attn.to_q.lora_B.weight", of_q, Role::Up),
            ("base_model.model.transformer_blocks.3.attn.to_q.lora_A.default.weight", of_q, Role::Down),
            ("transformer_blocks.3.attn.to_q.lora.up.weight", of_q, Role::Up),
            ("lora_transformer_transformer_blocks_3_attn_to_q.lora_down.weight", of_q, Role::Down),
            ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", of_qkv, Role::Down),
            ("lora_unet_double_blocks_0_img_attn_qkv.alpha", of_qkv, Role::Alpha),
            ("diffusion_model.double_blocks.0.img_attn.qkv.lora_B.weight", of_qkv, Role::Up),
            ("double_blocks.0.processor.qkv_lora1.down.weight", of_qkv, Role::Down),
            ("double_blocks.7.processor.proj_lora2.up.weight", "double_blocks_7_txt_attn_proj", Role::Up),
            ("single_blocks.7.processor.qkv_lora.up.weight", "single_blocks_7_linear1", Role::Up),
            (
                "lora_unet_final_layer_adaLN_modulation_1.lora_up.weight",
                "final_layer_adaLN_modulation_1",
                Role::Up,
            ),
        ] {
            assert_eq!(parse(name), Some((module.to_owned(), role)), "{name}");
        }
    }

    #[test]
    fn other_names_are_none() {
        for name in [
            "transformer_blocks.0.attn.to_q.weight",
            "a.lora_magnitude_vector",
            "double_blocks.0.img_attn.norm.key_norm.scale",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
