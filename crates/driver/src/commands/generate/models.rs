use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use lighterage_dit::Adapters;
use lighterage_identity::{
    Detector, Embedding, FaceNetwork, Fitted, Keypoints, Photo, Points, TEMPLATE, crop, draw, find_detector,
    find_points, fit, keypoints_beside, read_keypoints,
};
use lighterage_pipeline::{Cut, Extras, Face, InfiniteYou, Job, Latent, Model, Options, Window};

use super::Arguments;
use super::request::Request;
use crate::count::counted;
use crate::failure::{Failure, Result};
use crate::{mapping, output};

/// In place of a file of keypoints: there is nothing to find.
const ALIGNED: &str = "aligned";

/// Everything that is opened once for all pictures of a run.
pub(super) struct Models {
    pub(super) model: Model,
    infinite_you: Option<InfiniteYou>,
    adapters: Adapters,
    face_models: Option<PathBuf>,
    network: OnceCell<FaceNetwork>,
    detector: OnceCell<Option<Detector>>,
}

impl Models {
    /// Face network and detector are opened when a photo asks for them.
    pub(super) fn open(arguments: &Arguments, has_face: bool) -> Result<Self> {
        let model = Model::open(&arguments.model(), mapping::promise())?;
        let infinite_you = match arguments.infinite_you() {
            Some(path) if has_face => Some(InfiniteYou::open(&path, mapping::promise())?),
            None if has_face => {
                return Err(Failure::Usage(
                    "a face needs --infinite-you DIR, since the model is not the bundled one".to_owned(),
                ));
            }
            _ => None,
        };
        Ok(Self {
            model,
            infinite_you,
            adapters: adapters(&arguments.lora)?,
            face_models: arguments.face_models(),
            network: OnceCell::new(),
            detector: OnceCell::new(),
        })
    }

    /// The options of one picture, its face found and embedded.
    pub(super) fn options(&self, arguments: &Arguments, request: &Request) -> Result<Options> {
        let prompt = request.prompt.as_deref().unwrap_or_default();
        let defaults = match &self.infinite_you {
            Some(infinite_you) if request.has_face() => infinite_you.options(&self.model, prompt),
            _ => self.model.options(prompt),
        };
        let options = arguments.over(request.options(defaults)?);
        // Before a control photo is scaled to these sides.
        options.check()?;
        let face = match self.embedding(request)? {
            Some(embedding) => Some(self.face(arguments, request, &options, &embedding)?),
            None => None,
        };
        Ok(Options { face, ..options })
    }

    pub(super) fn job(&self, options: Options) -> Result<Job> {
        let adapters = (!self.adapters.is_empty()).then_some(&self.adapters);
        let extras = Extras { infinite_you: self.infinite_you.as_ref(), adapters };
        let job = Job::with(&self.model, extras, options)?;
        for (what, Cut { encoder, read, left_out }) in job.cuts() {
            let left_out = if left_out == 1 { "one is".to_owned() } else { format!("{left_out} are") };
            output::note(&format!("{what}: {encoder} reads {read} tokens, the last {left_out} left out"));
        }
        Ok(job)
    }

    fn embedding(&self, request: &Request) -> Result<Option<Embedding>> {
        if let Some(given) = &request.id_embedding {
            return read_embedding(given).map(Some);
        }
        let Some(path) = &request.id_image else { return Ok(None) };
        let photo = Photo::open(path)?;
        let name = path.display().to_string();
        let face = match &request.id_keypoints {
            Some(keypoints) if keypoints.as_os_str() == ALIGNED => crop(&photo, &name, Points::Aligned)?,
            Some(keypoints) => crop(&photo, &name, Points::Given(read_keypoints(keypoints, path)?))?,
            None => crop(&photo, &name, self.points(path)?)?,
        };
        Ok(Some(self.network()?.embed(&face)?))
    }

    fn face(
        &self,
        arguments: &Arguments,
        request: &Request,
        options: &Options,
        embedding: &Embedding,
    ) -> Result<Face> {
        let plain = Face::new(embedding.values().to_vec());
        Ok(Face {
            control: self.control(request, [options.width, options.height])?,
            scale: request.infusenet_scale.unwrap_or(plain.scale),
            window: Window {
                start: request.infusenet_start.unwrap_or(plain.window.start),
                end: request.infusenet_end.unwrap_or(plain.window.end),
            },
            guidance: request.infusenet_guidance.unwrap_or(plain.guidance),
            latent: if arguments.samples_control() { Latent::Sample } else { Latent::Mean },
            ..plain
        })
    }

    /// The drawing of the pose in the control photo, never of the person's.
    fn control(&self, request: &Request, [width, height]: [usize; 2]) -> Result<Option<Photo>> {
        let Some(path) = &request.control_image else { return Ok(None) };
        let photo = Photo::open(path)?;
        let fitted = fit(&photo, width, height)?;
        let given = match &request.control_keypoints {
            Some(keypoints) => Some(read_keypoints(keypoints, path)?),
            None => keypoints_beside(path)?,
        };
        let keypoints = match given {
            Some(keypoints) => keypoints.moved(fitted.scale, fitted.offset),
            None => self.control_keypoints(&photo, &fitted, &path.display().to_string())?,
        };
        Ok(Some(draw(width, height, keypoints)))
    }

    /// In the fitted photo, where nobody has given them.
    fn control_keypoints(&self, photo: &Photo, fitted: &Fitted, name: &str) -> Result<Keypoints> {
        if let Some(detector) = self.detector()? {
            // Found in the fitted photo, as the reference does.
            return Ok(detector.largest(&fitted.photo, name)?.keypoints);
        }
        find_points(photo, name, Points::Aligned)?;
        Ok(Keypoints(TEMPLATE).moved(fitted.scale, fitted.offset))
    }

    /// Where the points of a photo are to be had: beside it, else from a detector.
    fn points(&self, photo: &Path) -> Result<Points<'_>> {
        Ok(match keypoints_beside(photo)? {
            Some(keypoints) => Points::Given(keypoints),
            None => Points::Detector(self.detector()?),
        })
    }

    fn network(&self) -> Result<&FaceNetwork> {
        if self.network.get().is_none() {
            let Some(folder) = &self.face_models else {
                return Err(Failure::Usage("a photo needs --face-models DIR with a face network".to_owned()));
            };
            // Empty until now, and nobody else is here.
            let _ = self.network.set(FaceNetwork::find(folder, mapping::promise())?);
        }
        self.network.get().ok_or_else(|| Failure::Refused("no face network".to_owned()))
    }

    fn detector(&self) -> Result<Option<&Detector>> {
        if self.detector.get().is_none() {
            let detector = self.face_models.as_deref().map(find_detector).transpose()?.flatten();
            // Empty until now, and nobody else is here.
            let _ = self.detector.set(detector);
        }
        Ok(self.detector.get().and_then(Option::as_ref))
    }
}

/// `FILE` or `FILE:NAME`.
pub(crate) fn read_embedding(given: &str) -> Result<Embedding> {
    let (path, name) = match given.rsplit_once(':') {
        Some((path, name)) if !Path::new(given).is_file() => (path, Some(name)),
        _ => (given, None),
    };
    Ok(Embedding::read(&mapping::open(Path::new(path))?, name)?)
}

/// `FILE` or `FILE:SCALE`, each.
pub(crate) fn adapters(given: &[String]) -> Result<Adapters> {
    let mut adapters = Adapters::default();
    for text in given {
        let (path, scale) = match text.rsplit_once(':') {
            Some((path, scale)) if !Path::new(text).is_file() => {
                let scale = scale.parse().ok().filter(|scale: &f32| scale.is_finite());
                let usage = || {
                    Failure::Usage(format!(
                        "--lora {text}: the strength behind the colon is not a finite number"
                    ))
                };
                (path, scale.ok_or_else(usage)?)
            }
            _ => (text.as_str(), 1.0),
        };
        let left_out = adapters.add(mapping::open(Path::new(path))?, scale)?;
        if left_out > 0 {
            output::note(&format!(
                "{path}: {} for the text encoders, not applied",
                counted(left_out, "tensor")
            ));
        }
    }
    Ok(adapters)
}
