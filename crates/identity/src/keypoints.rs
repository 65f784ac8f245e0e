use std::path::Path;

use serde::Deserialize;

use crate::{Error, Result};

/// Left eye, right eye, nose, left and right corner of the mouth, as seen in the picture; pixels from the left and from the top.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Keypoints(pub [[f64; 2]; 5]);

impl Keypoints {
    /// The same points in a picture that was scaled, then moved.
    #[must_use]
    pub fn moved(self, scale: [f64; 2], offset: [f64; 2]) -> Self {
        Self(self.0.map(|[x, y]| [x * scale[0] + offset[0], y * scale[1] + offset[1]]))
    }
}

/// One entry of a `faces.json`.
#[derive(Debug, Deserialize)]
struct Face {
    #[serde(default)]
    file: String,
    keypoints: [[f64; 2]; 5],
}

/// A list of faces, or one alone, or nothing but its points.
#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    Faces(Vec<Face>),
    Face(Face),
    Points([[f64; 2]; 5]),
}

/// Reads the keypoints of `picture` from JSON: a list of objects with `file` and `keypoints` (five pairs of pixels), of which the one with the picture's file
/// name counts; or one such object; or the five pairs alone.
///
/// # Errors
/// [`Error::File`], or [`Error::Keypoints`] if it is other JSON, has no entry for the picture, or numbers that are not finite.
pub fn read_keypoints(path: &Path, picture: &Path) -> Result<Keypoints> {
    let refuse = |message: String| Error::Keypoints { path: path.to_owned(), message };
    let text =
        std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    let document = serde_json::from_str(&text).map_err(|error| {
        refuse(format!("should be a list of {{\"file\", \"keypoints\": five [x, y]}}, one of them, or five [x, y]: {error}"))
    })?;
    let name = picture.file_name().unwrap_or_default().to_string_lossy();
    let points = match document {
        Document::Points(points) => points,
        Document::Face(face) => face.keypoints,
        Document::Faces(faces) => {
            let found = faces.iter().find(|face| face.file == name);
            found
                .ok_or_else(|| refuse(format!("none of its {} entries has the file {name:?}", faces.len())))?
                .keypoints
        }
    };
    if points.iter().flatten().all(|value| value.is_finite()) {
        Ok(Keypoints(points))
    } else {
        Err(refuse("a keypoint that is not finite".to_owned()))
    }
}
