use std::path::{Path, PathBuf};

use lighterage_checkpoint::{Checkpoint, Unmodified};

use crate::align::CROP_SIDE;
use crate::arcface::network_input;
use crate::onnx::Network;
use crate::{ArcFace, Detector, Embedding, Error, Keypoints, Photo, Result, align, read_keypoints};

/// The list of keypoints that is looked for beside a picture.
pub const KEYPOINTS_FILE: &str = "faces.json";
/// The detector's file, as antelopev2 has it.
pub const DETECTOR_FILE: &str = "scrfd_10g_bnkps.onnx";
/// The face networks that InfiniteYou and the demo model were trained with.
const ARCFACE_FILES: [&str; 2] = ["recognition_arcface_ir_se50.pth", "arcface_ir_se.safetensors"];
/// In antelopev2 too, a face network, and another one than the projector was trained with.
const OTHER_NETWORK: &str = "glintr100.onnx";
/// How many numbers a face network gives.
const EMBEDDING: usize = 512;

/// Where the five points of a face come from.
#[derive(Clone, Copy, Debug)]
pub enum Points<'a> {
    /// Somebody knows them.
    Given(Keypoints),
    /// There is nothing to find: the picture is an aligned crop.
    Aligned,
    /// To be found, if there is something that can.
    Detector(Option<&'a Detector>),
}

/// The points of a picture that `faces.json` beside it knows; none if there is no such file.
///
/// # Errors
/// As [`read_keypoints`], if there is one.
pub fn keypoints_beside(picture: &Path) -> Result<Option<Keypoints>> {
    let path = picture.with_file_name(KEYPOINTS_FILE);
    if path.is_file() { read_keypoints(&path, picture).map(Some) } else { Ok(None) }
}

/// The points of the face in a photo; none if the photo is an aligned crop. `picture` names it in messages.
///
/// # Errors
/// [`Error::NoFace`], [`Error::Onnx`]; [`Error::NoKeypoints`] if nobody knows them and the photo has not the size of an aligned crop.
pub fn find_points(photo: &Photo, picture: &str, points: Points<'_>) -> Result<Option<Keypoints>> {
    match points {
        Points::Given(keypoints) => Ok(Some(keypoints)),
        Points::Detector(Some(detector)) => Ok(Some(detector.largest(photo, picture)?.keypoints)),
        Points::Aligned | Points::Detector(None)
            if photo.width() == CROP_SIDE && photo.height() == CROP_SIDE =>
        {
            Ok(None)
        }
        Points::Aligned | Points::Detector(None) => Err(Error::NoKeypoints {
            picture: picture.to_owned(),
            width: photo.width(),
            height: photo.height(),
            side: CROP_SIDE,
        }),
    }
}

/// The aligned crop of a face.
///
/// # Errors
/// As [`find_points`] and [`align`].
pub fn crop(photo: &Photo, picture: &str, points: Points<'_>) -> Result<Photo> {
    match find_points(photo, picture, points)? {
        Some(keypoints) => align(photo, keypoints),
        None => Ok(photo.clone()),
    }
}

/// What turns an aligned crop into an identity.
#[derive(Debug)]
pub struct FaceNetwork {
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    ArcFace(Box<ArcFace>),
    Onnx(Box<Network>),
}

impl FaceNetwork {
    /// The face network of a folder: facexlib's `.pth`, the demo's safetensors file, else the one other ONNX file for crops of 112 x 112.
    ///
    /// # Errors
    /// [`Error::Network`] if there is none, or several; else what is wrong with its file.
    pub fn find(folder: &Path, promise: Unmodified) -> Result<Self> {
        if let Some(path) = ARCFACE_FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file()) {
            return Self::open(&path, promise);
        }
        let refuse = |message: String| Error::Network { path: folder.to_owned(), message };
        let mut found = Vec::new();
        for path in onnx_files(folder)? {
            let network = Network::open(&path)?;
            if network.reads(CROP_SIDE) {
                found.push(network);
            }
        }
        let names: Vec<String> = found.iter().map(|network| network.path().display().to_string()).collect();
        match found.pop() {
            Some(network) if found.is_empty() => {
                Ok(Self { path: network.path().to_owned(), kind: Kind::Onnx(Box::new(network)) })
            }
            Some(_) => {
                Err(refuse(format!("several ONNX files for {CROP_SIDE} x {CROP_SIDE}: {}", names.join(", "))))
            }
            None => Err(refuse(format!(
                "none of {}, and no ONNX file for {CROP_SIDE} x {CROP_SIDE} ({OTHER_NETWORK} is another network than InfiniteYou's)",
                ARCFACE_FILES.join(", ")
            ))),
        }
    }

    /// One file: ONNX by its ending, else a checkpoint with facexlib's names.
    ///
    /// # Errors
    /// [`Error::Onnx`], [`Error::Checkpoint`], [`Error::Network`].
    pub fn open(path: &Path, promise: Unmodified) -> Result<Self> {
        let kind = match path.extension().is_some_and(|extension| extension == "onnx") {
            true => Kind::Onnx(Box::new(Network::open(path)?)),
            false => Kind::ArcFace(Box::new(ArcFace::new(&Checkpoint::open(path, promise)?)?)),
        };
        Ok(Self { path: path.to_owned(), kind })
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The identity of an aligned crop, of length 1. An ONNX file is given what facexlib's network wants: blue, green, red, -1 to 1.
    ///
    /// # Errors
    /// [`Error::Onnx`] if the file gives something else than 512 numbers, or numbers that are no direction.
    ///
    /// # Panics
    /// If the crop has another size than [`CROP_SIDE`].
    pub fn embed(&self, crop: &Photo) -> Result<Embedding> {
        match &self.kind {
            Kind::ArcFace(network) => Ok(network.embed(crop)),
            Kind::Onnx(network) => {
                let outputs = network.run(network_input(crop).values, CROP_SIDE)?;
                match &outputs[..] {
                    [output] if output.values.len() == EMBEDDING && !has_direction(&output.values) => {
                        Err(network
                            .refuse(&"it gives numbers that are no direction: zeros, NaN or infinities"))
                    }
                    [output] if output.values.len() == EMBEDDING => {
                        Ok(Embedding::normalised(output.values.clone()))
                    }
                    _ => {
                        let shapes: Vec<_> = outputs.iter().map(|output| &output.shape).collect();
                        Err(network.refuse(&format!(
                            "it should give one output of {EMBEDDING} numbers, it gives {shapes:?}"
                        )))
                    }
                }
            }
        }
    }
}

/// Whether the numbers can be brought to length 1.
fn has_direction(values: &[f32]) -> bool {
    values.iter().all(|value| value.is_finite()) && values.iter().any(|value| *value != 0.0)
}

/// The detector of a folder, if there is one.
///
/// # Errors
/// [`Error::Onnx`] if its file is there and cannot be read.
pub fn find_detector(folder: &Path) -> Result<Option<Detector>> {
    let path = folder.join(DETECTOR_FILE);
    if path.is_file() { Detector::open(&path).map(Some) } else { Ok(None) }
}

/// Sorted; without the detector, and without the network that is the wrong one.
fn onnx_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let file = |source| Error::File { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(file)? {
        let path = entry.map_err(file)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".onnx") && name != DETECTOR_FILE && name != OTHER_NETWORK {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
