use std::path::{Path, PathBuf};

use lighterage_checkpoint::{Checkpoint, Unmodified};
use lighterage_shape::DType;
use lighterage_text::{clip, t5};
use lighterage_vae as vae;
use serde::Deserialize;

use crate::folder::{self, Place};
use crate::options::FACTOR;
use crate::{Error, Noise, Options, Result, SchedulerConfig, Spacing, file};

/// A FLUX pipeline on disk: configurations read, weights mapped but not touched.
///
/// Nothing about the sizes is assumed: every part says its own in its `config.json`, or by the shapes of its tensors.
#[derive(Debug)]
pub struct Model {
    path: PathBuf,
    /// The folder of the text encoders and tokenizers.
    pub(crate) root: PathBuf,
    pub(crate) scheduler: SchedulerConfig,
    pub(crate) clip: Part<clip::Config>,
    pub(crate) t5: Part<t5::Config>,
    pub(crate) transformer: Part<lighterage_dit::Config>,
    pub(crate) vae: Part<vae::Config>,
    defaults: Defaults,
}

/// One model of the pipeline.
#[derive(Debug)]
pub(crate) struct Part<C> {
    pub(crate) config: C,
    pub(crate) weights: Checkpoint,
}

impl<C> Part<C> {
    pub(crate) fn open<E>(
        folder: &Path,
        promise: Unmodified,
        config: fn(&Path) -> Result<C, E>,
    ) -> Result<Self>
    where
        Error: From<E>,
    {
        Ok(Self { config: config(&folder.join("config.json"))?, weights: Checkpoint::open(folder, promise)? })
    }
}

/// The transformer: without a `config.json` in `transformer/` or beside the file, as its tensors' names and shapes say.
fn transformer(place: &Place, promise: Unmodified) -> Result<Part<lighterage_dit::Config>> {
    let weights = Checkpoint::open(&place.weights, promise)?;
    let config = match &place.config {
        Some(config) => lighterage_dit::Config::read(config)?,
        None => lighterage_dit::Config::of(&weights)?,
    };
    Ok(Part { config, weights })
}

/// The autoencoder: without a `config.json`, the one that all FLUX.1 models share.
fn autoencoder(place: &Place, promise: Unmodified) -> Result<Part<vae::Config>> {
    let config = match &place.config {
        Some(config) => vae::Config::open(config)?,
        None => vae::Config::flux(),
    };
    Ok(Part { config, weights: Checkpoint::open(&place.weights, promise)? })
}

impl Model {
    /// Opens a folder as diffusers writes it, with `model_index.json`, `scheduler`, `text_encoder`, `text_encoder_2`, `tokenizer`, `tokenizer_2`,
    /// `transformer`, `vae`, and perhaps `generation_config.json`.
    ///
    /// Or one file, as Black Forest Labs publish the transformer (`flux1-dev.safetensors`), or the folder that has one but no `transformer/`. The text encoders and
    /// tokenizers then lie beside it as above; the autoencoder too, or as `ae.safetensors`; without `scheduler` the noise levels are those of FLUX.1
    /// dev or schnell. The transformer's sizes are those of `transformer/config.json` if that is there, else they follow from the shapes of its
    /// tensors, where heads have 128 elements.
    ///
    /// # Errors
    /// [`Error::Folder`] names everything that is missing or of the wrong class, [`Error::Config`] where two parts do not fit together; else what reading a part says.
    pub fn open(path: &Path, promise: Unmodified) -> Result<Self> {
        let places = folder::find(path)?;
        let root = places.root;
        let transformer = transformer(&places.transformer, promise)?;
        let is_dev = transformer.config.guidance_embeds;
        let model = Self {
            path: path.to_owned(),
            scheduler: match &places.scheduler {
                Some(file) => SchedulerConfig::open(file)?,
                None if is_dev => SchedulerConfig::flux_dev(),
                None => SchedulerConfig::flux_schnell(),
            },
            clip: Part::open(&root.join("text_encoder"), promise, clip::Config::open)?,
            t5: Part::open(&root.join("text_encoder_2"), promise, t5::Config::open)?,
            vae: autoencoder(&places.vae, promise)?,
            defaults: Defaults::of(is_dev).or_from(&root)?,
            transformer,
            root,
        };
        model.check_joints()?;
        Ok(model)
    }

    /// What tells the transformer's weights from others: of their names, shapes and sizes.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.transformer.weights.fingerprint()
    }

    /// The folder or file that it was opened from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the model's own files, else its family, say about everything but the prompt.
    #[must_use]
    pub fn options(&self, prompt: &str) -> Options {
        self.defaults.options(prompt)
    }

    /// Whether the parts fit together: each may be sound by itself.
    fn check_joints(&self) -> Result<()> {
        let transformer = &self.transformer.config;
        let (clip, t5, vae) = (&self.clip.config, &self.t5.config, &self.vae.config);
        let joints = [
            ("transformer", "pooled_projection_dim", transformer.pooled_projection_dim, clip.hidden_size),
            ("transformer", "joint_attention_dim", transformer.joint_attention_dim, t5.d_model),
            ("transformer", "in_channels", transformer.in_channels, 4 * vae.latent_channels),
            ("transformer", "out_channels", transformer.out_channels(), 4 * vae.latent_channels),
            ("vae", "out_channels", vae.out_channels, 3),
            ("vae", "pixels of a latent position", vae.factor(), FACTOR),
        ];
        match joints.into_iter().find(|(_, _, got, expected)| got != expected) {
            None => Ok(()),
            Some((part, field, got, expected)) => {
                let (got, expected) = (got.to_string(), format!("{expected}, as the other parts have it"));
                Err(Error::Config { path: self.root.join(part).join("config.json"), field, got, expected })
            }
        }
    }
}

/// `generation_config.json`, with diffusers' names.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Defaults {
    width: usize,
    height: usize,
    num_inference_steps: usize,
    guidance_scale: f32,
    max_sequence_length: usize,
}

/// The same as a file has it: any field may be left out.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Given {
    width: Option<usize>,
    height: Option<usize>,
    num_inference_steps: Option<usize>,
    guidance_scale: Option<f32>,
    max_sequence_length: Option<usize>,
}

impl Given {
    /// Nothing where the folder has no `generation_config.json`.
    pub(crate) fn of(folder: &Path) -> Result<Self> {
        let path = folder.join("generation_config.json");
        if path.exists() { file::json(&path) } else { Ok(Self::default()) }
    }

    /// What is given, in the place of what was there.
    pub(crate) fn over(self, options: Options) -> Options {
        Options {
            width: self.width.unwrap_or(options.width),
            height: self.height.unwrap_or(options.height),
            steps: self.num_inference_steps.unwrap_or(options.steps),
            guidance: self.guidance_scale.unwrap_or(options.guidance),
            max_sequence_length: self.max_sequence_length.unwrap_or(options.max_sequence_length),
            ..options
        }
    }
}

impl Defaults {
    /// Of the family: a model with a guidance embedding is a dev, one without is a schnell.
    const fn of(guidance_embeds: bool) -> Self {
        let (num_inference_steps, max_sequence_length) = if guidance_embeds { (30, 512) } else { (4, 256) };
        Self { width: 1024, height: 1024, num_inference_steps, guidance_scale: 3.5, max_sequence_length }
    }

    /// Of the folder, where it has a `generation_config.json`.
    fn or_from(self, folder: &Path) -> Result<Self> {
        let path = folder.join("generation_config.json");
        let given = Given::of(folder)?;
        self.with(given).checked(&path)
    }

    fn with(self, given: Given) -> Self {
        Self {
            width: given.width.unwrap_or(self.width),
            height: given.height.unwrap_or(self.height),
            num_inference_steps: given.num_inference_steps.unwrap_or(self.num_inference_steps),
            guidance_scale: given.guidance_scale.unwrap_or(self.guidance_scale),
            max_sequence_length: given.max_sequence_length.unwrap_or(self.max_sequence_length),
        }
    }

    /// Refuses what cannot be done, in the file's name: nobody gave it as an option.
    fn checked(self, path: &Path) -> Result<Self> {
        match self.options("").check() {
            Err(Error::Option { name, got, needs }) => {
                Err(Error::Config { path: path.to_owned(), field: name, got, expected: needs })
            }
            outcome => outcome.map(|()| self),
        }
    }

    fn options(self, prompt: &str) -> Options {
        Options {
            prompt: prompt.to_owned(),
            seed: 0,
            steps: self.num_inference_steps,
            width: self.width,
            height: self.height,
            guidance: self.guidance_scale,
            max_sequence_length: self.max_sequence_length,
            spacing: Spacing::default(),
            noise: Noise::default(),
            dtype: DType::Bf16,
            vae_tile: None,
            check_weights: false,
            negative: None,
            teacache: None,
            face: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_have_their_own_defaults() {
        let (dev, schnell) = (Defaults::of(true), Defaults::of(false));
        assert_eq!((dev.num_inference_steps, dev.max_sequence_length, dev.guidance_scale), (30, 512, 3.5));
        assert_eq!((schnell.num_inference_steps, schnell.max_sequence_length), (4, 256));
        assert_eq!((dev.width, dev.height), (1024, 1024));
    }

    #[test]
    fn a_file_overrides_what_it_names() {
        let folder = lighterage_testkit::folder("").join("../../assets/demo/base");
        let found = Defaults::of(true).or_from(&folder).unwrap();
        let expected = Defaults {
            width: 64,
            height: 64,
            num_inference_steps: 20,
            guidance_scale: 2.5,
            max_sequence_length: 32,
        };
        assert_eq!(found, expected);
        assert_eq!(Defaults::of(true).or_from(&folder.join("vae")).unwrap(), Defaults::of(true));
    }
}
