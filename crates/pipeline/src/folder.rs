//! Where the parts of a FLUX pipeline lie: in the folders that diffusers writes, or around one file as Black Forest Labs publish it.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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

/// BFL's autoencoder.
const AUTOENCODER: &str = "ae.safetensors";

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

/// A part's weights, and its configuration where there is one; without it, the published model's is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// A folder, or a safetensors file.
    pub(crate) weights: PathBuf,
    pub(crate) config: Option<PathBuf>,
}

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    /// The folder of the text encoders and tokenizers.
    pub(crate) root: PathBuf,
    pub(crate) transformer: Place,
    pub(crate) vae: Place,
    pub(crate) scheduler: Option<PathBuf>,
}

/// Finds every part and checks, before anything is opened, that it is there and of a known class.
///
/// A folder with `transformer/` is taken as diffusers writes it. A safetensors file, or a folder with exactly one beside `ae.safetensors`, is the
/// transformer, and the other parts lie around it: `text_encoder`, `text_encoder_2`, `tokenizer` and `tokenizer_2` as diffusers writes them;
/// `vae`, else `ae.safetensors`; `scheduler` if it is there.
///
/// # Errors
/// [`Error::Folder`] with all faults at once; [`Error::File`] or [`Error::Json`] if `model_index.json` itself cannot be read.
pub(crate) fn find(path: &Path) -> Result<Places> {
    if path.is_file() {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        return around(path.to_owned(), folder.unwrap_or(Path::new(".")));
    }
    if !path.is_dir() {
        return refuse(path, vec!["there is nothing of that name".to_owned()]);
    }
    match single_files(path).as_slice() {
        _ if has_one_of(&path.join("transformer"), DIFFUSERS_WEIGHTS) => diffusers(path),
        [file] => around(file.clone(), path),
        [] => diffusers(path),
        several => {
            let names: Vec<_> = several.iter().filter_map(|file| file.file_name()?.to_str()).collect();
            let fault = format!(
                "it has no transformer/, and several files could be it: {}; name one",
                names.join(", ")
            );
            refuse(path, vec![fault])
        }
    }
}

/// All in folders.
fn diffusers(path: &Path) -> Result<Places> {
    let index = path.join("model_index.json");
    if !index.is_file() {
        let needs = "it has no model_index.json, and no safetensors file that could be the transformer";
        return refuse(path, vec![needs.to_owned()]);
    }
    let faults = faults(path, Some(&file::json(&index)?), |_| true);
    if !faults.is_empty() {
        return refuse(path, faults);
    }
    Ok(Places {
        root: path.to_owned(),
        transformer: in_folder(path, "transformer"),
        vae: in_folder(path, "vae"),
        scheduler: Some(scheduler(path)),
    })
}

/// The transformer in a file, the other parts beside it.
fn around(transformer: PathBuf, folder: &Path) -> Result<Places> {
    let index = folder.join("model_index.json");
    let index = if index.is_file() { Some(file::json(&index)?) } else { None };
    let vae_in_folder = has_one_of(&folder.join("vae"), DIFFUSERS_WEIGHTS);
    let has_scheduler = scheduler(folder).is_file();
    let mut faults = faults(folder, index.as_ref(), |part| match part {
        "transformer" => false,
        "vae" => vae_in_folder,
        "scheduler" => has_scheduler,
        _ => true,
    });
    if !vae_in_folder && !folder.join(AUTOENCODER).is_file() {
        faults.push(format!("vae/{} or {AUTOENCODER} is missing", DIFFUSERS_WEIGHTS.join(" or vae/")));
    }
    if !faults.is_empty() {
        return refuse(folder, faults);
    }
    let config = |part: &str| Some(folder.join(part).join("config.json")).filter(|config| config.is_file());
    let autoencoder = Place { weights: folder.join(AUTOENCODER), config: config("vae") };
    Ok(Places {
        root: folder.to_owned(),
        transformer: Place { weights: transformer, config: config("transformer") },
        vae: if vae_in_folder { in_folder(folder, "vae") } else { autoencoder },
        scheduler: has_scheduler.then(|| scheduler(folder)),
    })
}

fn refuse<T>(path: &Path, faults: Vec<String>) -> Result<T> {
    Err(Error::Folder { path: path.to_owned(), faults })
}

fn in_folder(root: &Path, part: &str) -> Place {
    let weights = root.join(part);
    Place { config: Some(weights.join("config.json")), weights }
}

fn scheduler(root: &Path) -> PathBuf {
    root.join("scheduler/scheduler_config.json")
}

fn has_one_of(folder: &Path, files: &[&str]) -> bool {
    files.iter().any(|file| folder.join(file).is_file())
}

/// The safetensors files of a folder that could be a transformer, sorted. A folder that cannot be listed has none.
fn single_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_safetensors =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension == "safetensors");
    let mut files: Vec<_> = entries
        .filter(|path| path.is_file() && is_safetensors(path) && !path.ends_with(AUTOENCODER))
        .collect();
    files.sort();
    files
}

/// `model_index.json`: every part with the library and the class that it was saved from.
#[derive(Deserialize)]
struct Index {
    #[serde(rename = "_class_name", default)]
    class: String,
    #[serde(flatten)]
    parts: BTreeMap<String, serde_json::Value>,
}

/// Everything that is missing or of the wrong class, among the parts that are wanted.
fn faults(path: &Path, index: Option<&Index>, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut faults = Vec::new();
    if let Some(Index { class, .. }) = index.filter(|index| index.class != "FluxPipeline") {
        faults.push(format!("model_index.json: _class_name is {class:?}, should be \"FluxPipeline\""));
    }
    for part in PARTS.iter().filter(|part| is_wanted(part.name)) {
        faults.extend(index.and_then(|index| wrong_class(part, index)));
        faults.extend(missing_files(part, path));
    }
    faults
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
    let missing = part.files.iter().filter(|group| !has_one_of(&folder, group));
    missing.map(|group| format!("{}/{} is missing{}", part.name, group.join(" or "), hint(&folder))).collect()
}

/// What to do about a folder that has T5's vocabulary in the form that is not read.
fn hint(folder: &Path) -> &'static str {
    if folder.join("spiece.model").is_file() {
        " (there is a spiece.model: T5TokenizerFast.from_pretrained(FOLDER).save_pretrained(FOLDER) of Python's transformers makes a \
         tokenizer.json of it, and FLUX.1's own folder tokenizer_2 has one)"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these empty files.
    fn folder_of(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        folder
    }

    const ENCODERS: [&str; 6] = [
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "text_encoder_2/config.json",
        "text_encoder_2/model.safetensors.index.json",
        "tokenizer/tokenizer.json",
        "tokenizer_2/tokenizer.json",
    ];

    fn check_refused(files: &[&str], expected: &str) {
        let folder = folder_of(files);
        let error = find(folder.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn one_file_of_black_forest_labs_is_the_transformer() {
        let folder = folder_of(&[&ENCODERS[..], &["flux1-dev.safetensors", "ae.safetensors"]].concat());
        let root = folder.path();
        let found = find(root).unwrap();
        let expected = Places {
            root: root.to_owned(),
            transformer: Place { weights: root.join("flux1-dev.safetensors"), config: None },
            vae: Place { weights: root.join("ae.safetensors"), config: None },
            scheduler: None,
        };
        assert_eq!(found, expected);
        assert_eq!(find(&root.join("flux1-dev.safetensors")).unwrap(), expected);
    }

    #[test]
    fn configurations_and_a_folder_of_the_autoencoder_are_taken_where_they_are() {
        let more = [
            "flux1-dev.safetensors",
            "transformer/config.json",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
            "scheduler/scheduler_config.json",
        ];
        let folder = folder_of(&[&ENCODERS[..], &more].concat());
        let root = folder.path();
        let found = find(root).unwrap();
        assert_eq!(found.transformer.config, Some(root.join("transformer/config.json")));
        assert_eq!(found.vae.weights, root.join("vae"));
        assert_eq!(found.scheduler, Some(root.join("scheduler/scheduler_config.json")));
    }

    #[test]
    fn what_is_missing_around_a_file_is_named_at_once() {
        check_refused(&["flux1-dev.safetensors"], "text_encoder/config.json is missing");
        check_refused(&["flux1-dev.safetensors"], "or ae.safetensors is missing");
    }

    #[test]
    fn two_files_that_could_be_the_transformer_are_not_guessed_between() {
        check_refused(
            &["flux1-dev.safetensors", "flux1-schnell.safetensors", "ae.safetensors"],
            "several files could be it: flux1-dev.safetensors, flux1-schnell.safetensors; name one",
        );
    }

    #[test]
    fn a_folder_of_something_else_says_what_it_lacks() {
        check_refused(&["notes.txt"], "no model_index.json, and no safetensors file");
        let error = find(Path::new("/nowhere/at/all")).unwrap_err().to_string();
        assert!(error.contains("there is nothing of that name"), "{error}");
    }

    #[test]
    fn a_vocabulary_of_sentencepiece_comes_with_the_way_to_convert_it() {
        let files: Vec<&str> = ENCODERS.into_iter().filter(|file| !file.starts_with("tokenizer_2")).collect();
        let more = ["flux1-dev.safetensors", "ae.safetensors", "tokenizer_2/spiece.model"];
        check_refused(&[&files[..], &more].concat(), "save_pretrained(FOLDER)");
    }
}
