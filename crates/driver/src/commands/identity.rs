use std::io::Write;
use std::path::{Path, PathBuf};

use lighterage_checkpoint::NewTensor;
use lighterage_identity::{
    DETECTION_SIDES, Embedding, Error, Face, FaceNetwork, Keypoints, Photo, Points, TEMPLATE, align, draw,
    find_detector, find_points, keypoints_beside, largest, read_keypoints,
};
use lighterage_shape::DType;
use serde::Serialize;

use crate::failure::Result;
use crate::inputs::Input;
use crate::{inputs, json, mapping, model_path, output, picture_file};

/// Find the face in a photo, and who it is: boxes, keypoints, aligned crop, embedding, each printed or saved.
///
/// Keypoints come from --keypoints, else from a faces.json beside the photo, else from a detector in --face-models. Without any of them a photo of
/// 112 x 112 pixels is taken as an aligned crop.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lighterage identity assets/demo/faces/cleo.png
  lighterage identity photo.jpg --face-models antelopev2 --faces points.json --crop face.png --embedding me.safetensors
  lighterage generate --id-embedding me.safetensors --prompt \"...\"
  lighterage identity made.png --keypoints points.json --compare me.safetensors")]
pub(crate) struct Arguments {
    /// The photo.
    photo: PathBuf,
    /// The folder with the face network and perhaps a detector [default: the bundled one].
    #[arg(long, value_name = "DIR")]
    face_models: Option<PathBuf>,
    /// Keypoints of the face.
    #[arg(long, value_name = "FILE.json")]
    keypoints: Option<PathBuf>,
    /// Save boxes, scores and keypoints as a faces.json: the face that counts first, which --id-keypoints and --keypoints then take.
    #[arg(long, value_name = "FILE.json")]
    faces: Option<PathBuf>,
    /// Save the aligned crop, 112 x 112.
    #[arg(long, value_name = "FILE.png")]
    crop: Option<PathBuf>,
    /// Save the drawing of the keypoints, in the photo's size: what --control-image makes of it.
    #[arg(long, value_name = "FILE.png")]
    drawing: Option<PathBuf>,
    /// Save the embedding, under the name `embedding`.
    #[arg(long, value_name = "FILE.safetensors")]
    embedding: Option<PathBuf>,
    /// Print the cosine to another embedding.
    #[arg(long, value_name = "FILE[:NAME]")]
    compare: Option<String>,
    /// Print JSON, the embedding included.
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Found {
    width: usize,
    height: usize,
    /// By the detector, best first; empty where the keypoints were given.
    faces: Vec<Box>,
    /// Of the face that counts; none in an aligned crop.
    keypoints: Option<[[f64; 2]; 5]>,
    network: PathBuf,
    embedding: Vec<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cosine: Option<f64>,
}

/// An entry of a `faces.json`.
#[derive(Debug, Serialize)]
struct Entry {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    corners: Option<[f32; 4]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
    keypoints: [[f64; 2]; 5],
}

#[derive(Debug, Serialize)]
struct Box {
    /// Left, top, right, bottom.
    corners: [f32; 4],
    score: f32,
    keypoints: [[f64; 2]; 5],
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    check_outputs(arguments)?;
    let folder = arguments.face_models.clone().unwrap_or_else(model_path::bundled_infinite_you);
    let photo = Photo::open(&arguments.photo)?;
    let (faces, keypoints) = find(arguments, &folder, &photo)?;
    let crop = match keypoints {
        Some(keypoints) => align(&photo, keypoints)?,
        None => photo.clone(),
    };
    let network = FaceNetwork::find(&folder, mapping::promise())?;
    let embedding = network.embed(&crop)?;
    if let Some(path) = &arguments.faces {
        save_faces(path, &arguments.photo, &faces, keypoints)?;
    }
    if let Some(path) = &arguments.crop {
        save_picture(path, &crop)?;
    }
    if let Some(path) = &arguments.drawing {
        // An aligned crop has its keypoints where every one has them.
        let keypoints = keypoints.unwrap_or(Keypoints(TEMPLATE));
        save_picture(path, &draw(photo.width(), photo.height(), keypoints))?;
    }
    if let Some(path) = &arguments.embedding {
        save_embedding(path, &embedding)?;
    }
    let known = arguments.compare.as_deref().map(super::read_embedding).transpose()?;
    let found = Found {
        width: photo.width(),
        height: photo.height(),
        faces: faces.iter().map(Box::from).collect(),
        keypoints: keypoints.map(|keypoints| keypoints.0),
        network: network.path().to_owned(),
        cosine: known.map(|known| embedding.cosine(&known)),
        embedding: embedding.values().to_vec(),
    };
    if arguments.json { json::print(&found) } else { found.print() }
}

/// Each can be written, and none is another's file or the photo's.
fn check_outputs(arguments: &Arguments) -> Result<()> {
    let Arguments { faces, crop, drawing, embedding, photo, .. } = arguments;
    let saved = [("--faces", faces), ("--crop", crop), ("--drawing", drawing), ("--embedding", embedding)];
    let saved = saved.iter().filter_map(|(option, path)| Some((*option, path.as_deref()?)));
    let saved: Vec<(&str, &Path)> = saved.collect();
    output::check_apart(&[&saved[..], &[("the photo", photo)]].concat())?;
    saved.iter().try_for_each(|(_, path)| output::check(path))?;
    let mut read = Vec::from(Input::photo("PHOTO", photo));
    read.extend(arguments.keypoints.as_ref().map(|path| Input::new("--keypoints", path)));
    read.extend(arguments.face_models.as_ref().map(|path| Input::new("--face-models", path)));
    read.extend(arguments.compare.iter().flat_map(|given| Input::with_suffix("--compare", given)));
    inputs::check(&saved, &read)
}

/// The faces that a detector finds, and the keypoints of the one that counts.
fn find(arguments: &Arguments, folder: &Path, photo: &Photo) -> Result<(Vec<Face>, Option<Keypoints>)> {
    let path = &arguments.photo;
    let given = match &arguments.keypoints {
        Some(keypoints) => Some(read_keypoints(keypoints, path)?),
        None => keypoints_beside(path)?,
    };
    if given.is_some() {
        return Ok((Vec::new(), given));
    }
    let picture = path.display().to_string();
    let Some(detector) = find_detector(folder)? else {
        return Ok((Vec::new(), find_points(photo, &picture, Points::Detector(None))?));
    };
    let faces = detector.faces(photo)?;
    let none = || Error::NoFace { picture, sizes: DETECTION_SIDES.to_vec() };
    let keypoints = largest(&faces).ok_or_else(none)?.keypoints;
    Ok((faces, Some(keypoints)))
}

/// The face that counts, then the others. An aligned crop has its keypoints where every one has them.
fn save_faces(path: &Path, photo: &Path, faces: &[Face], keypoints: Option<Keypoints>) -> Result<()> {
    let file = photo.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let keypoints = keypoints.unwrap_or(Keypoints(TEMPLATE));
    let counts = faces.iter().position(|face| face.keypoints == keypoints);
    let others = (0..faces.len()).filter(|index| Some(*index) != counts);
    let entry = |face: &Face| Entry {
        file: file.clone(),
        corners: Some(face.corners),
        score: Some(face.score),
        keypoints: face.keypoints.0,
    };
    let mut entries: Vec<Entry> =
        counts.into_iter().chain(others).map(|index| entry(&faces[index])).collect();
    if counts.is_none() {
        entries.insert(0, Entry { file: file.clone(), corners: None, score: None, keypoints: keypoints.0 });
    }
    Ok(output::write(path, |out| Ok(serde_json::to_writer_pretty(out, &entries)?))?)
}

fn save_picture(path: &Path, photo: &Photo) -> Result<()> {
    let sides = [photo.width(), photo.height()];
    Ok(output::write(path, |file| picture_file::write(file, sides, photo.rgb(), &[]))?)
}

fn save_embedding(path: &Path, embedding: &Embedding) -> Result<()> {
    let bytes: Vec<u8> = embedding.values().iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = [embedding.values().len()];
    let tensor = NewTensor { name: "embedding", dtype: DType::F32, shape: &shape, bytes: &bytes };
    output::write_tensors(path, &[tensor])
}

impl From<&Face> for Box {
    fn from(face: &Face) -> Self {
        Self { corners: face.corners, score: face.score, keypoints: face.keypoints.0 }
    }
}

impl Found {
    fn print(&self) -> Result<()> {
        let mut out = output::stdout();
        writeln!(out, "photo      {} x {}", self.width, self.height)?;
        for Box { corners: [left, top, right, bottom], score, .. } in &self.faces {
            writeln!(out, "face       {left:.1} {top:.1} to {right:.1} {bottom:.1}, score {score:.3}")?;
        }
        match self.keypoints {
            Some(points) => {
                let points: Vec<String> = points.iter().map(|[x, y]| format!("{x:.2} {y:.2}")).collect();
                writeln!(out, "keypoints  {}", points.join(", "))?;
            }
            None => writeln!(out, "keypoints  none: an aligned crop")?,
        }
        let first: Vec<String> = self.embedding.iter().take(4).map(|value| format!("{value:.4}")).collect();
        writeln!(
            out,
            "embedding  {} numbers: {} ... by {}",
            self.embedding.len(),
            first.join(" "),
            self.network.display()
        )?;
        if let Some(cosine) = self.cosine {
            writeln!(out, "cosine     {cosine:.4}")?;
        }
        Ok(())
    }
}
