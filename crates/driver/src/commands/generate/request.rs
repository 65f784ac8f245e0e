use std::path::PathBuf;

use lighterage_pipeline::{Negation, Options, TEACACHE_MINIMUM, TeaCache};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};
use crate::inputs::Input;
use crate::{output, range};

/// What may differ from picture to picture: options of the command line, and the fields of a job's line.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Request {
    /// What is to be seen; may be empty.
    #[arg(long, value_name = "TEXT", required_unless_present = "jobs")]
    pub(super) prompt: Option<String>,
    /// What not to be seen; works with --true-cfg.
    #[arg(long, value_name = "TEXT", requires = "true_cfg")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) negative_prompt: Option<String>,
    /// How far to go away from the negative prompt (which is empty by default); 1 is not at all. Every step takes twice as long.
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true, value_parser = range::scale::<f32>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) true_cfg: Option<f32>,
    /// Steps of the loop, 1 to 1000 [default: the model's].
    #[arg(long, value_name = "N", value_parser = range::steps)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) steps: Option<usize>,
    /// Width in pixels, a multiple of 16 from 16 to 16384 [default: the model's].
    #[arg(long, value_name = "PIXELS", value_parser = range::side)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) width: Option<usize>,
    /// Height in pixels, a multiple of 16 from 16 to 16384 [default: the model's].
    #[arg(long, value_name = "PIXELS", value_parser = range::side)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) height: Option<usize>,
    /// Guidance that the model is told, 0 or more; models without guidance ignore it [default: the model's].
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true, value_parser = range::scale::<f32>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) guidance: Option<f32>,
    /// A photo of the person.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id_image: Option<PathBuf>,
    /// Keypoints of the face in the photo, as in assets/demo/faces/faces.json; or `aligned` for a 112 x 112 crop.
    #[arg(long, value_name = "FILE.json|aligned", requires = "id_image")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id_keypoints: Option<PathBuf>,
    /// The person's embedding, from a safetensors file, in place of a photo.
    #[arg(long, value_name = "FILE[:NAME]", conflicts_with = "id_image")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id_embedding: Option<String>,
    /// A photo whose face is turned as the picture's is to be [default: any way]. Its keypoints are found as those of --id-image.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) control_image: Option<PathBuf>,
    /// Keypoints of the face in that photo.
    #[arg(long, value_name = "FILE.json", requires = "control_image")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) control_keypoints: Option<PathBuf>,
    /// How strongly InfuseNet works; 0 is not at all [default: 1].
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true, value_parser = range::scale::<f32>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) infusenet_scale: Option<f32>,
    /// From which part of the steps on InfuseNet works, 0 to 1 [default: 0].
    #[arg(long, value_name = "PART", allow_negative_numbers = true, value_parser = range::real(0.0..=1.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) infusenet_start: Option<f64>,
    /// Up to which part of the steps InfuseNet works, 0 to 1 [default: 1].
    #[arg(long, value_name = "PART", allow_negative_numbers = true, value_parser = range::real(0.0..=1.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) infusenet_end: Option<f64>,
    /// InfuseNet's own guidance, which is not its strength [default: 1].
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true, value_parser = range::scale::<f32>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) infusenet_guidance: Option<f32>,
    /// Skip steps that would add almost the same as the one before: the more, the higher the threshold (0.25, 0.4, 0.6, 0.8). Below 0.1804 none is.
    #[arg(long, value_name = "THRESHOLD", value_parser = range::scale::<f64>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) teacache: Option<f64>,
}

impl Request {
    /// What this says, and where it says nothing, what the other says.
    pub(super) fn or(self, other: &Self) -> Self {
        macro_rules! either {
            ($($field:ident),+ $(,)?) => { Self { $($field: self.$field.or_else(|| other.$field.clone())),+ } };
        }
        // A line with a photo means that person, whatever embedding the command names, and the other way round.
        let mut other = other.clone();
        if self.id_image.is_some() || self.id_embedding.is_some() {
            (other.id_image, other.id_embedding, other.id_keypoints) = (None, None, None);
        }
        if self.control_image.is_some() {
            other.control_keypoints = None;
        }
        either!(
            prompt,
            negative_prompt,
            true_cfg,
            steps,
            width,
            height,
            guidance,
            id_image,
            id_keypoints,
            id_embedding,
            control_image,
            control_keypoints,
            infusenet_scale,
            infusenet_start,
            infusenet_end,
            infusenet_guidance,
            teacache,
        )
    }

    /// The files that it names.
    pub(super) fn inputs(&self) -> Vec<Input> {
        let photos = [("--id-image", &self.id_image), ("--control-image", &self.control_image)];
        let photos =
            photos.into_iter().filter_map(|(option, path)| Some(Input::photo(option, path.as_ref()?)));
        let points =
            [("--id-keypoints", &self.id_keypoints), ("--control-keypoints", &self.control_keypoints)];
        let points = points.into_iter().filter_map(|(option, path)| Some(Input::new(option, path.as_ref()?)));
        let embedding = self.id_embedding.as_ref().map(|given| Input::with_suffix("--id-embedding", given));
        photos.flatten().chain(points).chain(embedding.into_iter().flatten()).collect()
    }

    /// Whether there is a face.
    pub(super) const fn has_face(&self) -> bool {
        self.id_image.is_some() || self.id_embedding.is_some()
    }

    /// Says what an option will not do.
    pub(super) fn warn(&self) {
        if let Some(threshold) = self.teacache.filter(|threshold| *threshold <= TEACACHE_MINIMUM) {
            output::note(&format!(
                "--teacache {threshold}: no step will ever be skipped, the least distance that TeaCache sees is {TEACACHE_MINIMUM}"
            ));
        }
    }

    /// Refuses what would be passed over in silence. The command line says so by itself; a line of a file comes without its rules.
    fn check(&self) -> Result<()> {
        if self.id_image.is_some() && self.id_embedding.is_some() {
            return Err(Failure::Usage("--id-image and --id-embedding exclude each other".to_owned()));
        }
        let needs = [
            ("--negative-prompt", self.negative_prompt.is_some(), "--true-cfg", self.true_cfg.is_some()),
            ("--id-keypoints", self.id_keypoints.is_some(), "--id-image", self.id_image.is_some()),
            (
                "--control-keypoints",
                self.control_keypoints.is_some(),
                "--control-image",
                self.control_image.is_some(),
            ),
        ];
        match needs.into_iter().find(|(_, given, _, there)| *given && !*there) {
            Some((name, _, other, _)) => Err(Failure::Usage(format!("{name} needs {other}"))),
            None => Ok(()),
        }
    }

    /// The model's options with what was given in their place, all but the face.
    pub(super) fn options(&self, defaults: Options) -> Result<Options> {
        self.check()?;
        let options = Options {
            prompt: self.prompt.clone().unwrap_or_default(),
            steps: self.steps.unwrap_or(defaults.steps),
            width: self.width.unwrap_or(defaults.width),
            height: self.height.unwrap_or(defaults.height),
            guidance: self.guidance.unwrap_or(defaults.guidance),
            negative: self.true_cfg.map(|scale| {
                let prompt = self.negative_prompt.clone().unwrap_or_default();
                Negation { prompt, scale }
            }),
            teacache: self.teacache.map(|threshold| TeaCache { threshold, keeps_infusenet: false }),
            ..defaults
        };
        let needs_face = [
            ("--control-image", self.control_image.is_some()),
            ("--infusenet-scale", self.infusenet_scale.is_some()),
            ("--infusenet-start", self.infusenet_start.is_some()),
            ("--infusenet-end", self.infusenet_end.is_some()),
            ("--infusenet-guidance", self.infusenet_guidance.is_some()),
        ];
        match needs_face.into_iter().find(|(_, given)| *given && !self.has_face()) {
            Some((name, _)) => {
                Err(Failure::Usage(format!("{name} needs a face: --id-image or --id-embedding")))
            }
            None => Ok(options),
        }
    }
}
