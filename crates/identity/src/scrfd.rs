use std::path::Path;

use crate::onnx::{Network, Output};
use crate::{Error, Keypoints, Photo, Result};

/// The sides that pictures are scaled to, one after the other until a face is found: a face that fills the picture is often found at a small one only.
pub const DETECTION_SIDES: [usize; 3] = [640, 320, 160];

/// Cells of these many pixels, each with [`ANCHORS`] guesses.
const STRIDES: [usize; 3] = [8, 16, 32];
const ANCHORS: usize = 2;
/// Guesses below are none.
const SCORE_MIN: f32 = 0.5;
/// Of two boxes that overlap by more, the better one stays.
const OVERLAP_MAX: f32 = 0.4;

/// A face in a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Face {
    /// Left, top, right, bottom, in pixels.
    pub corners: [f32; 4],
    /// 0.5 to 1.
    pub score: f32,
    /// Eyes, nose, corners of the mouth.
    pub keypoints: Keypoints,
}

impl Face {
    /// Of its box, in pixels.
    #[must_use]
    pub fn area(&self) -> f32 {
        let [left, top, right, bottom] = self.corners;
        (right - left) * (bottom - top)
    }
}

/// SCRFD with keypoints (Guo et al. 2021), from an ONNX file such as insightface's `scrfd_10g_bnkps.onnx`.
#[derive(Debug)]
pub struct Detector {
    network: Network,
}

impl Detector {
    /// Reads the network.
    ///
    /// # Errors
    /// [`Error::Onnx`].
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { network: Network::open(path)? })
    }

    /// All faces at the first of [`DETECTION_SIDES`] that shows one, best first; none if no size does.
    ///
    /// # Errors
    /// [`Error::Onnx`] if the file is no such detector.
    pub fn faces(&self, photo: &Photo) -> Result<Vec<Face>> {
        ladder(|side| self.at(photo, side))
    }

    /// The largest face.
    ///
    /// # Errors
    /// [`Error::NoFace`] if there is none, `picture` names it; else as [`faces`](Self::faces).
    pub fn largest(&self, photo: &Photo, picture: &str) -> Result<Face> {
        let sizes = DETECTION_SIDES.to_vec();
        largest(&self.faces(photo)?).ok_or_else(|| Error::NoFace { picture: picture.to_owned(), sizes })
    }

    fn at(&self, photo: &Photo, side: usize) -> Result<Vec<Face>> {
        let (canvas, scale) = letterbox(photo, side);
        let outputs = self.network.run(canvas, side)?;
        let levels = levels(&outputs, side).map_err(|message| self.network.refuse(&message))?;
        Ok(suppressed(guesses(&levels, side, scale)))
    }
}

fn ladder(mut at: impl FnMut(usize) -> Result<Vec<Face>>) -> Result<Vec<Face>> {
    for side in DETECTION_SIDES {
        let faces = at(side)?;
        if !faces.is_empty() {
            return Ok(faces);
        }
    }
    Ok(Vec::new())
}

/// The largest box; of equal ones the last, which is the worse guess, as the reference's stable sort by area has it.
#[must_use]
pub fn largest(faces: &[Face]) -> Option<Face> {
    faces.iter().copied().max_by(|a, b| a.area().total_cmp(&b.area()))
}

/// The picture scaled into the upper left of a square, as the network reads it, and by how much it was scaled.
fn letterbox(photo: &Photo, side: usize) -> (Vec<f32>, f32) {
    let ratio = f64_of(photo.height()) / f64_of(photo.width());
    let (width, height) = match ratio > 1.0 {
        true => (scaled(side, ratio.recip()), side),
        false => (side, scaled(side, ratio)),
    };
    let mut planes = vec![(0.0 - 127.5) / 128.0; 3 * side * side];
    for (y, row) in resized(photo, width, height).chunks(3 * width).enumerate() {
        for (x, pixel) in row.chunks(3).enumerate() {
            for (channel, value) in pixel.iter().enumerate() {
                planes[(channel * side + y) * side + x] = (value - 127.5) / 128.0;
            }
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "rounded once")]
    let scale = (f64_of(height) / f64_of(photo.height())) as f32;
    (planes, scale)
}

/// The reference cuts the fraction off; a picture of one pixel's width still has that pixel.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to side")]
fn scaled(side: usize, ratio: f64) -> usize {
    ((f64_of(side) * ratio) as usize).clamp(1, side)
}

/// Bilinear between pixel centres, without a filter for shrinking: `OpenCV`'s `INTER_LINEAR`, rounded to bytes as there. `[height, width, 3]`.
fn resized(photo: &Photo, width: usize, height: usize) -> Vec<f32> {
    let columns: Vec<_> = (0..width).map(|x| taps(x, width, photo.width())).collect();
    let mut values = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        let (top, bottom, fy) = taps(y, height, photo.height());
        for &(left, right, fx) in &columns {
            let corner = |x, y| photo.pixel(x, y).map(f32::from);
            let [a, b, c, d] =
                [corner(left, top), corner(right, top), corner(left, bottom), corner(right, bottom)];
            for channel in 0..3 {
                let upper = a[channel] + (b[channel] - a[channel]) * fx;
                let lower = c[channel] + (d[channel] - c[channel]) * fx;
                values.push((upper + (lower - upper) * fy).round());
            }
        }
    }
    values
}

/// The two neighbours of a pixel of the scaled picture in the original, and the part of the second.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to count, by the clamp")]
fn taps(index: usize, scaled: usize, count: usize) -> (usize, usize, f32) {
    let place = (f64_of(index) + 0.5) * f64_of(count) / f64_of(scaled) - 0.5;
    let place = place.clamp(0.0, f64_of(count - 1));
    let first = place as usize;
    (first, (first + 1).min(count - 1), (place - f64_of(first)) as f32)
}

/// The guesses of one stride, `[cells, anchors]` in rows.
#[derive(Debug, PartialEq)]
struct Level {
    stride: usize,
    /// One each.
    scores: Vec<f32>,
    /// Left, top, right, bottom: how far the box reaches, in strides.
    reaches: Vec<f32>,
    /// Five offsets in x and y, in strides.
    offsets: Vec<f32>,
}

/// Sorts nine outputs by what they are: the number of guesses tells the stride, the numbers of each guess the kind. Their order in the file
/// does not matter.
fn levels(outputs: &[Output], side: usize) -> Result<Vec<Level>, String> {
    let shapes: Vec<Vec<usize>> = outputs.iter().map(|output| output.shape.clone()).collect();
    let level = |stride: usize| {
        let cells = side.div_ceil(stride);
        let guesses = ANCHORS * cells * cells;
        let part = |numbers: usize| {
            let mut found = outputs.iter().filter(|output| {
                output.shape.last() == Some(&numbers) && output.values.len() == guesses * numbers
            });
            found.next().filter(|_| found.next().is_none()).map(|output| output.values.clone())
        };
        Some(Level { stride, scores: part(1)?, reaches: part(4)?, offsets: part(10)? })
    };
    let levels: Option<Vec<Level>> = STRIDES.into_iter().map(level).collect();
    levels.filter(|_| outputs.len() == 9).ok_or_else(|| {
        format!(
            "no face detector with keypoints: at {side} x {side} it should give 9 outputs of 1, 4 and 10 numbers for 2 guesses in each cell of 8, 16 and 32 \
             pixels, it gives {shapes:?}"
        )
    })
}

/// Every guess that is good enough, in pixels of the picture before it was scaled.
fn guesses(levels: &[Level], side: usize, scale: f32) -> Vec<Face> {
    let mut faces = Vec::new();
    for Level { stride, scores, reaches, offsets } in levels {
        let cells = side.div_ceil(*stride);
        let reach = f32_of(*stride);
        for (index, score) in scores.iter().enumerate().filter(|(_, score)| **score >= SCORE_MIN) {
            let cell = index / ANCHORS;
            // The corner of the cell, not its middle.
            let [x, y] = [cell % cells * stride, cell / cells * stride].map(f32_of);
            let [left, top, right, bottom] = std::array::from_fn(|edge| reaches[4 * index + edge] * reach);
            let point = |point: usize| {
                let offset = |axis: usize| offsets[10 * index + 2 * point + axis] * reach;
                [(x + offset(0)) / scale, (y + offset(1)) / scale].map(f64::from)
            };
            let corners = [x - left, y - top, x + right, y + bottom].map(|edge| edge / scale);
            let keypoints = Keypoints(std::array::from_fn(point));
            faces.push(Face { corners, score: *score, keypoints });
        }
    }
    faces
}

/// Best first, without those that overlap a better one.
fn suppressed(mut faces: Vec<Face>) -> Vec<Face> {
    faces.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<Face> = Vec::new();
    for face in faces {
        if kept.iter().all(|better| overlap(&better.corners, &face.corners) <= OVERLAP_MAX) {
            kept.push(face);
        }
    }
    kept
}

/// Intersection over union; a box counts its last pixel.
fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area = |[left, top, right, bottom]: &[f32; 4]| (right - left + 1.0) * (bottom - top + 1.0);
    let width = (a[2].min(b[2]) - a[0].max(b[0]) + 1.0).max(0.0);
    let height = (a[3].min(b[3]) - a[1].max(b[1]) + 1.0).max(0.0);
    let shared = width * height;
    shared / (area(a) + area(b) - shared)
}

#[expect(clippy::cast_precision_loss, reason = "sides are below 2^53")]
const fn f64_of(value: usize) -> f64 {
    value as f64
}

#[expect(clippy::cast_precision_loss, reason = "at most 640")]
const fn f32_of(value: usize) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests;
