//! What has to be in a folder that diffusers calls a `FluxPipeline`.
use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::file;
use crate::{Error, Result};

/// One part of the pipeline: its folder, the classes that will do, and its files. Of each group of files one has to be there.
struct Part {
    name: &'static str,
    classes: &'static [&'static str],
    files: &'static [&'static [&'static str]],
}

const CONFIG: &[&str] = &["config.json"];
const TRANSFORMERS_WEIGHTS: &[&str] = &["model.safetensors", "model.safetensors.index.json"];
const DIFFUSERS_WEIGHTS: &[&str] =
    &["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json"];

const PARTS: [Part; 7] = [
    Part {
        name: "scheduler",
        classes: &["FlowMatchEulerDiscreteScheduler"],
        files: &[&["scheduler_config.json"]],
    },
    Part { name: "text_encoder", classes: &["CLIPTextModel"], files: &[CONFIG, TRANSFORMERS_WEIGHTS] },
    Part { name: "text_encoder_2", classes: &["T5EncoderModel"], files: &[CONFIG, TRANSFORMERS_WEIGHTS] },
    Part {
        name: "tokenizer",
        classes: &["CLIPTokenizer", "CLIPTokenizerFast"],
        files: &[&["tokenizer.json", "vocab.json"], &["tokenizer.json", "merges.txt"]],
    },
    Part { name: "tokenizer_2", classes: &["T5Tokenizer", "T5TokenizerFast"], files: &[&["tokenizer.json"]] },
    Part { name: "transformer", classes: &["FluxTransformer2DModel"], files: &[CONFIG, DIFFUSERS_WEIGHTS] },
    Part { name: "vae", classes: &["AutoencoderKL"], files: &[CONFIG, DIFFUSERS_WEIGHTS] },
];

/// `model_index.json`: every part with the library and the class that it was saved from.
#[derive(Deserialize)]
struct Index {
    #[serde(rename = "_class_name", default)]
    class: String,
    #[serde(flatten)]
    parts: BTreeMap<String, serde_json::Value>,
}

/// Checks that every part is there and of a known class, before anything is opened.
///
/// # Errors
/// [`Error::Folder`] with all faults at once; [`Error::File`] or [`Error::Json`] if `model_index.json` itself cannot be read.
pub(crate) fn check(path: &Path) -> Result<()> {
    let index: Index = file::json(&path.join("model_index.json"))?;
    let mut faults = Vec::new();
    if index.class != "FluxPipeline" {
        faults
            .push(format!("model_index.json: _class_name is {:?}, should be \"FluxPipeline\"", index.class));
    }
    for part in &PARTS {
        faults.extend(wrong_class(part, &index));
        faults.extend(missing_files(part, path));
    }
    if faults.is_empty() { Ok(()) } else { Err(Error::Folder { path: path.to_owned(), faults }) }
}

fn wrong_class(part: &Part, index: &Index) -> Option<String> {
    let name = part.name;
    let Some(entry) = index.parts.get(name) else {
        return Some(format!("model_index.json: {name} is missing"));
    };
    let class = entry.get(1).and_then(|class| class.as_str()).unwrap_or("null");
    let wanted = part.classes[0];
    (!part.classes.contains(&class))
        .then(|| format!("model_index.json: {name} is a {class}, should be a {wanted}"))
}

fn missing_files(part: &Part, path: &Path) -> Vec<String> {
    let folder = path.join(part.name);
    let missing = part.files.iter().filter(|group| !group.iter().any(|file| folder.join(file).is_file()));
    missing.map(|group| format!("{}/{} is missing", part.name, group.join(" or "))).collect()
}
