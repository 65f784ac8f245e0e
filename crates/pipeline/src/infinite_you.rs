use std::path::{Path, PathBuf};

use lighterage_checkpoint::{Checkpoint, Unmodified};
use lighterage_identity::Resampler;

use crate::model::{Given, Part};
use crate::{Error, Model, Options, Result};

/// The projector's files, as published and as converted.
const PROJECTORS: [&str; 2] = ["image_proj_model.bin", "image_proj_model.safetensors"];

/// The part of InfiniteYou that goes with a FLUX model: InfuseNet and the image projector. Configurations read, weights mapped but not touched.
#[derive(Debug)]
pub struct InfiniteYou {
    path: PathBuf,
    pub(crate) net: Part<lighterage_dit::Config>,
    pub(crate) projector: Checkpoint,
    pub(crate) head: usize,
    defaults: Given,
}

impl InfiniteYou {
    /// Opens a folder with `InfuseNetModel` and `image_proj_model.bin` (or `.safetensors`), and perhaps `generation_config.json`.
    ///
    /// # Errors
    /// [`Error::InfiniteYou`] names everything that is missing; else what reading a part says.
    pub fn open(path: &Path, promise: Unmodified) -> Result<Self> {
        let projector = PROJECTORS.iter().map(|name| path.join(name)).find(|file| file.is_file());
        let net = path.join("InfuseNetModel");
        let mut faults = Vec::new();
        if !net.join("config.json").is_file() {
            faults.push("InfuseNetModel/config.json is missing".to_owned());
        }
        let Some(projector) = projector.filter(|_| faults.is_empty()) else {
            if !PROJECTORS.iter().any(|name| path.join(name).is_file()) {
                faults.push(format!("{} is missing", PROJECTORS.join(" or ")));
            }
            return Err(Error::InfiniteYou { path: path.to_owned(), faults });
        };
        Ok(Self {
            path: path.to_owned(),
            net: Part::open(&net, promise, lighterage_dit::Config::read)?,
            projector: Checkpoint::open(&projector, promise)?,
            head: Resampler::head_of(&path.join("image_proj_model.json"))?,
            defaults: Given::of(path)?,
        })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model's options, with what this folder's `generation_config.json` says in their place.
    #[must_use]
    pub fn options(&self, model: &Model, prompt: &str) -> Options {
        self.defaults.over(model.options(prompt))
    }

    /// Whether it goes with the model: each may be sound by itself.
    pub(crate) fn check_joints(&self, model: &Model) -> Result<()> {
        let (net, transformer) = (&self.net.config, &model.transformer.config);
        let joints = [
            ("in_channels", net.in_channels, transformer.in_channels),
            ("joint_attention_dim", net.joint_attention_dim, transformer.joint_attention_dim),
            ("pooled_projection_dim", net.pooled_projection_dim, transformer.pooled_projection_dim),
            ("num_attention_heads x attention_head_dim", net.width(), transformer.width()),
        ];
        match joints.into_iter().find(|(_, got, expected)| got != expected) {
            None => Ok(()),
            Some((field, got, expected)) => Err(Error::Config {
                path: self.path.join("InfuseNetModel/config.json"),
                field,
                got: got.to_string(),
                expected: format!("{expected}, as the transformer has it"),
            }),
        }
    }
}
