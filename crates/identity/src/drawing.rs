use image::RgbImage;
use image::imageops::{self, FilterType};

use crate::{Error, Keypoints, PIXELS_MAX, Photo, Result};

/// Of each keypoint, in their order.
const COLOURS: [[u8; 3]; 5] = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255]];
/// Which keypoints are joined: all with the nose.
const LIMBS: [[usize; 2]; 4] = [[0, 2], [1, 2], [3, 2], [4, 2]];
/// Half the width of a limb, in pixels at every size of the picture.
const LIMB_HALF_WIDTH: f64 = 4.0;
/// Of the dots, in pixels.
const DOT_RADIUS: i64 = 10;

/// A photo brought to the size of the picture that is to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// On white.
    pub photo: Photo,
    /// Pixels of the fitted for each of the original, across and down.
    pub scale: [f64; 2],
    /// Where the original's upper left corner came to lie.
    pub offset: [f64; 2],
}

/// Scales a photo to the width of the picture, if that is upright or square, else to its height, and puts it into the middle of a white one. What is too
/// long is cut off on both sides (InfiniteYou, `resize_and_pad_image`; Lanczos).
///
/// # Errors
/// [`Error::Proportions`] if it is so long or so broad that more than [`PIXELS_MAX`] pixels would come of it before they are cut off.
///
/// # Panics
/// If a side is 0 or above 2^31.
pub fn fit(photo: &Photo, width: usize, height: usize) -> Result<Fitted> {
    let (old_width, old_height) = (photo.width(), photo.height());
    let (new_width, new_height) = match width <= height {
        true => (width, (width * old_height / old_width).max(1)),
        false => ((height * old_width / old_height).max(1), height),
    };
    let pixels = (new_width as u64).saturating_mul(new_height as u64);
    if pixels > PIXELS_MAX {
        return Err(Error::Proportions { width: old_width, height: old_height, pixels, max: PIXELS_MAX });
    }
    let [x, y] = [(width, new_width), (height, new_height)]
        .map(|(side, new)| (signed(side) - signed(new)).div_euclid(2));
    let mut canvas = RgbImage::from_pixel(narrow(width), narrow(height), [255; 3].into());
    let original = RgbImage::from_raw(narrow(old_width), narrow(old_height), photo.rgb().to_vec())
        .expect("its own pixels");
    let resized = imageops::resize(&original, narrow(new_width), narrow(new_height), FilterType::Lanczos3);
    imageops::overlay(&mut canvas, &resized, x, y);
    Ok(Fitted {
        photo: Photo::new(width, height, canvas.into_raw()),
        scale: [float(new_width) / float(old_width), float(new_height) / float(old_height)],
        offset: [x, y].map(float_of),
    })
}

/// The pose of a face, as InfuseNet is told it: dots for eyes, nose and mouth, darker limbs between them, on black.
///
/// InfiniteYou's `draw_kps` with the shapes of `OpenCV`: a limb is a polygon around an ellipse (`ellipse2Poly` by degrees, `fillConvexPoly`), dimmed to 0.6; the
/// dots are circles of radius 10 on top.
#[must_use]
pub fn draw(width: usize, height: usize, keypoints: Keypoints) -> Photo {
    let mut canvas = Canvas { width, height, rgb: vec![0; 3 * width * height] };
    for [from, to] in LIMBS {
        canvas.limb(keypoints.0[from], keypoints.0[to], COLOURS[from]);
    }
    canvas.dim();
    for ([x, y], colour) in keypoints.0.into_iter().zip(COLOURS) {
        canvas.dot(whole(x), whole(y), colour);
    }
    Photo::new(width, height, canvas.rgb)
}

struct Canvas {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Canvas {
    fn limb(&mut self, [x0, y0]: [f64; 2], [x1, y1]: [f64; 2], colour: [u8; 3]) {
        let centre = [whole(f64::midpoint(x0, x1)), whole(f64::midpoint(y0, y1))];
        let half = whole((x0 - x1).hypot(y0 - y1) / 2.0);
        let angle = whole((y0 - y1).atan2(x0 - x1).to_degrees());
        self.polygon(&ellipse(centre, [float_of(half), LIMB_HALF_WIDTH], angle), colour);
    }

    /// All pixels between the polygon's left and right edge in each row, and those of its outline.
    fn polygon(&mut self, corners: &[[i64; 2]], colour: [u8; 3]) {
        let edges = || corners.iter().zip(corners.iter().cycle().skip(1));
        for (from, to) in edges() {
            self.line(*from, *to, colour);
        }
        let top = corners.iter().map(|corner| corner[1]).min().unwrap_or(0).max(0);
        let bottom = corners.iter().map(|corner| corner[1]).max().unwrap_or(0).min(signed(self.height) - 1);
        for y in top..=bottom {
            let crossings = edges().filter_map(|(from, to)| crossing(*from, *to, y));
            let bounds = crossings.fold(None, |bounds: Option<[i64; 2]>, x| {
                Some(bounds.map_or([x, x], |[least, most]| [least.min(x), most.max(x)]))
            });
            if let Some([left, right]) = bounds {
                self.row(y, left, right, colour);
            }
        }
    }

    /// Bresenham's.
    fn line(&mut self, [x0, y0]: [i64; 2], [x1, y1]: [i64; 2], colour: [u8; 3]) {
        let steps = (x1 - x0).abs().max((y1 - y0).abs());
        for step in 0..=steps {
            let along = |from: i64, to: i64| from + rounded_quotient((to - from) * step, steps);
            let (x, y) = (along(x0, x1), along(y0, y1));
            self.row(y, x, x, colour);
        }
    }

    /// A filled circle, by the rule of the midpoint.
    fn dot(&mut self, x: i64, y: i64, colour: [u8; 3]) {
        let (mut across, mut error) = (DOT_RADIUS, 0);
        let mut down = 0;
        while across >= down {
            for (dx, dy) in [(across, down), (down, across)] {
                self.row(y - dy, x - dx, x + dx, colour);
                self.row(y + dy, x - dx, x + dx, colour);
            }
            error += 2 * down + 1;
            down += 1;
            if error > 0 {
                error -= 2 * across - 1;
                across -= 1;
            }
        }
    }

    /// From `left` to `right`, as far as it is inside.
    fn row(&mut self, y: i64, left: i64, right: i64, colour: [u8; 3]) {
        let Some(y) = usize::try_from(y).ok().filter(|y| *y < self.height) else { return };
        for x in left.max(0)..=right.min(signed(self.width) - 1) {
            // Not negative, by the bound.
            let start = 3 * (y * self.width + usize::try_from(x).unwrap_or(0));
            self.rgb[start..start + 3].copy_from_slice(&colour);
        }
    }

    fn dim(&mut self) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 153")]
        self.rgb.iter_mut().for_each(|value| *value = (f64::from(*value) * 0.6) as u8);
    }
}

/// The corners of an ellipse, a degree apart, on whole pixels, none twice in a row.
fn ellipse(centre: [i64; 2], half: [f64; 2], angle: i64) -> Vec<[i64; 2]> {
    let (sine, cosine) = float_of(angle).to_radians().sin_cos();
    let corner = |degree: i64| {
        let (s, c) = float_of(degree).to_radians().sin_cos();
        let (x, y) = (half[0] * c, half[1] * s);
        [float_of(centre[0]) + x * cosine - y * sine, float_of(centre[1]) + x * sine + y * cosine]
            .map(rounded)
    };
    let mut corners: Vec<[i64; 2]> = (0..=360).map(corner).collect();
    corners.dedup();
    corners
}

/// Where an edge crosses a row, to the nearest pixel; an edge along a row crosses none.
fn crossing([x0, y0]: [i64; 2], [x1, y1]: [i64; 2], y: i64) -> Option<i64> {
    (y0 != y1 && (y0.min(y1)..=y0.max(y1)).contains(&y))
        .then(|| x0 + rounded_quotient((x1 - x0) * (y - y0), y1 - y0))
}

/// Half goes up.
const fn rounded_quotient(a: i64, b: i64) -> i64 {
    if b == 0 { 0 } else { (2 * a * b.signum() + b.abs()).div_euclid(2 * b.abs()) }
}

#[expect(clippy::cast_possible_truncation, reason = "saturates far outside of any picture")]
fn rounded(value: f64) -> i64 {
    value.round_ties_even() as i64
}

/// Without its fraction, as Python's `int`; bounded, so that sums of such numbers are.
#[expect(clippy::cast_possible_truncation, reason = "saturates, then is bounded")]
fn whole(value: f64) -> i64 {
    (value as i64).clamp(-(1 << 20), 1 << 20)
}

#[expect(clippy::cast_precision_loss, reason = "sides and angles are below 2^53")]
const fn float(value: usize) -> f64 {
    value as f64
}

#[expect(clippy::cast_precision_loss, reason = "sides and angles are below 2^53")]
const fn float_of(value: i64) -> f64 {
    value as f64
}

fn signed(side: usize) -> i64 {
    i64::try_from(side).expect("a side of a picture")
}

fn narrow(side: usize) -> u32 {
    u32::try_from(side).expect("a side of a picture")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(width: usize, height: usize) -> Photo {
        Photo::new(width, height, vec![10; 3 * width * height])
    }

    #[test]
    fn an_upright_picture_takes_the_photos_width() {
        let fitted = fit(&plain(20, 10), 40, 60).unwrap();
        assert_eq!((fitted.scale, fitted.offset), ([2.0, 2.0], [0.0, 20.0]));
        assert_eq!(fitted.photo.pixel(0, 19), [255; 3]);
        assert_eq!(fitted.photo.pixel(0, 20), [10; 3]);
        assert_eq!(fitted.photo.pixel(39, 39), [10; 3]);
        assert_eq!(fitted.photo.pixel(39, 40), [255; 3]);
    }

    #[test]
    fn a_broad_picture_takes_the_photos_height_and_cuts_what_is_too_wide() {
        let fitted = fit(&plain(50, 10), 60, 20).unwrap();
        assert_eq!((fitted.scale, fitted.offset), ([2.0, 2.0], [-20.0, 0.0]));
        assert!(fitted.photo.rgb().iter().all(|value| *value == 10));
    }

    #[test]
    fn a_photo_that_would_grow_beyond_memory_is_refused() {
        let refused = fit(&plain(1, 1000), 1024, 1024).unwrap_err();
        assert!(matches!(refused, Error::Proportions { pixels: 1_048_576_000, .. }), "{refused}");
    }

    #[test]
    fn keypoints_move_with_the_photo() {
        let fitted = fit(&plain(20, 10), 40, 60).unwrap();
        let moved = Keypoints([[5.0, 2.0]; 5]).moved(fitted.scale, fitted.offset);
        assert_eq!(moved.0[0], [10.0, 24.0]);
    }

    #[test]
    fn points_outside_of_the_picture_do_no_harm() {
        let far = Keypoints([[1e300, -1e300], [f64::MAX, 0.0], [-50.0, -50.0], [5.0, 5.0], [0.0, 1e9]]);
        let drawn = draw(16, 16, far);
        assert_eq!(drawn.pixel(5, 5), COLOURS[3]);
    }

    #[test]
    fn quotients_round_half_up_whatever_the_signs() {
        assert_eq!(
            [
                rounded_quotient(5, 2),
                rounded_quotient(-5, 2),
                rounded_quotient(5, -2),
                rounded_quotient(-5, -2)
            ],
            [3, -2, -2, 3]
        );
        assert_eq!([rounded_quotient(4, 3), rounded_quotient(0, 7), rounded_quotient(9, 0)], [1, 0, 0]);
    }
}
