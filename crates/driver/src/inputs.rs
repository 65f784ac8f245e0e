//! What a command reads: none of its outputs may take its place.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// A file or a folder that a command reads.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    /// The option that names it.
    pub(crate) option: &'static str,
    /// Where it is.
    pub(crate) path: PathBuf,
}

impl Input {
    pub(crate) fn new(option: &'static str, path: impl Into<PathBuf>) -> Self {
        Self { option, path: path.into() }
    }

    /// What `FILE:SCALE` or `FILE:NAME` means: the file is looked for under both names.
    pub(crate) fn with_suffix(option: &'static str, given: &str) -> [Self; 2] {
        let file = given.rsplit_once(':').map_or(given, |(file, _)| file);
        [Self::new(option, given), Self::new(option, file)]
    }

    /// A model's folder, or a transformer in one file and what has to lie beside it.
    pub(crate) fn model(path: &Path) -> Vec<Self> {
        const BESIDE: [&str; 7] = [
            "text_encoder",
            "text_encoder_2",
            "tokenizer",
            "tokenizer_2",
            "vae",
            "scheduler",
            "ae.safetensors",
        ];
        let beside: &[&str] = if path.is_dir() { &[] } else { &BESIDE };
        let all = [path.to_owned()].into_iter().chain(beside.iter().map(|name| path.with_file_name(name)));
        all.map(|path| Self::new("--model", path)).collect()
    }

    /// What a command reads of a folder that may hold its outputs too.
    pub(crate) fn of_folder(option: &'static str, folder: &Path, names: &[&str]) -> Vec<Self> {
        names.iter().map(|name| Self::new(option, folder.join(name))).collect()
    }

    /// A photo, and the `faces.json` beside it.
    pub(crate) fn photo(option: &'static str, path: &Path) -> [Self; 2] {
        [Self::new(option, path), Self::new(option, path.with_file_name("faces.json"))]
    }

    /// Whether writing `output` would replace it, or something of it. What is new in its folder replaces nothing.
    fn has(&self, output: &Path) -> bool {
        let (Ok(output), Ok(input)) = (output.canonicalize(), self.path.canonicalize()) else { return false };
        output == input || output.strip_prefix(&input).is_ok_and(is_read_from_a_folder)
    }
}

/// Whether a file is of a kind that models are made of, tokenizers included. Whoever works in a model's folder may make the same picture there again.
fn is_read_from_a_folder(name: &Path) -> bool {
    let kinds = ["safetensors", "json", "bin", "pth", "onnx", "txt", "model"];
    name.extension().is_some_and(|extension| kinds.iter().any(|kind| extension.eq_ignore_ascii_case(kind)))
}

/// Refuses, before any work is done, an output that would replace what is read.
pub(crate) fn check(outputs: &[(&str, &Path)], inputs: &[Input]) -> Result<()> {
    for (option, output) in outputs {
        if let Some(input) = inputs.iter().find(|input| input.has(output)) {
            let path = output.display();
            return Err(Failure::Usage(format!(
                "{option} would replace what {} reads: {path}",
                input.option
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these files.
    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "old").unwrap();
        }
        folder
    }

    #[test]
    fn nothing_of_a_models_folder_is_replaced_and_anything_may_be_added() {
        let folder =
            folder(&["model_index.json", "flux1.safetensors", "vae/config.json", "made.png", "out/made.png"]);
        let is_refused = |name: &str| {
            let path = folder.path().join("vae/..").join(name);
            check(&[("--output", &path)], &[Input::new("--model", folder.path())]).is_err()
        };
        for name in ["model_index.json", "flux1.safetensors", "vae/config.json"] {
            assert!(is_refused(name), "{name}");
        }
        for name in ["made.png", "out/made.png", "new.safetensors", "vae/new.json", "nothing/new"] {
            assert!(!is_refused(name), "{name}");
        }
    }

    #[test]
    fn a_file_is_known_by_any_of_its_names() {
        let folder = folder(&["cleo.png", "faces.json", "known.safetensors"]);
        let at = |name: &str| folder.path().join(name);
        std::os::unix::fs::symlink(at("cleo.png"), at("link.png")).unwrap();
        let known = format!("{}:cleo", at("known.safetensors").display());
        let photo = Input::photo("--id-image", &at("cleo.png"));
        let inputs = [&photo[..], &Input::with_suffix("--id-embedding", &known)].concat();
        for name in ["cleo.png", "link.png", "faces.json", "known.safetensors"] {
            let Err(Failure::Usage(text)) = check(&[("--trace", &at(name))], &inputs) else {
                panic!("{name}")
            };
            assert!(text.starts_with("--trace would replace what --id-"), "{text}");
        }
        check(&[("--trace", &at("other.png"))], &inputs).unwrap();
    }
}
