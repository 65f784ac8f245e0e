use crate::{Error, Keypoints, Photo, Result};

/// Side in pixels of the picture that a face network reads.
pub const CROP_SIDE: usize = 112;

/// Where the five keypoints lie in an aligned crop (insightface, `face_align.py`: the template that `ArcFace` was trained with).
pub const TEMPLATE: [[f64; 2]; 5] =
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]];

/// A turn, a scale and a shift: `[x, y]` goes to `[a x - b y + tx, b x + a y + ty]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Similarity {
    /// Scale times cosine.
    pub a: f64,
    /// Scale times sine.
    pub b: f64,
    /// Added last.
    pub shift: [f64; 2],
}

impl Similarity {
    /// The one that takes `from` as near to `to` as can be, in the sum of squares (Umeyama 1991).
    ///
    /// In the plane, with a point as a complex number, Umeyama's proper rotation and scale are one complex factor, `sum(conj(s) d) / sum(|s|^2)` of the
    /// points without their means: no singular values are needed.
    ///
    /// # Errors
    /// [`Error::Degenerate`] if all points of `from` are one, or so far apart or so mirrored that no size follows.
    pub fn fit(from: &[[f64; 2]; 5], to: &[[f64; 2]; 5]) -> Result<Self> {
        let (source, target) = (mean(from), mean(to));
        let (mut real, mut imaginary, mut square) = (0.0, 0.0, 0.0);
        for (s, d) in from.iter().zip(to) {
            let [sx, sy, dx, dy] = [s[0] - source[0], s[1] - source[1], d[0] - target[0], d[1] - target[1]];
            real += sx * dx + sy * dy;
            imaginary += sx * dy - sy * dx;
            square += sx * sx + sy * sy;
        }
        let (a, b) = (real / square, imaginary / square);
        if square < 1e-9 || !(a * a + b * b).is_normal() {
            return Err(Error::Degenerate { x: source[0], y: source[1] });
        }
        let shift = [target[0] - a * source[0] + b * source[1], target[1] - b * source[0] - a * source[1]];
        Ok(Self { a, b, shift })
    }

    /// Where it takes a point.
    #[must_use]
    pub fn apply(self, [x, y]: [f64; 2]) -> [f64; 2] {
        [self.a * x - self.b * y + self.shift[0], self.b * x + self.a * y + self.shift[1]]
    }

    /// The way back.
    fn inverse(self) -> Self {
        let square = self.a * self.a + self.b * self.b;
        let (a, b) = (self.a / square, -self.b / square);
        let [x, y] = self.shift;
        Self { a, b, shift: [b * y - a * x, -b * x - a * y] }
    }
}

fn mean(points: &[[f64; 2]; 5]) -> [f64; 2] {
    [0, 1].map(|axis| points.iter().map(|point| point[axis]).sum::<f64>() / 5.0)
}

/// Sub-pixel positions in `OpenCV`'s `warpAffine` are multiples of this part of a pixel.
const PARTS: i64 = 32;
/// Its positions are kept in this part of a pixel until then.
const FINE: f64 = 1024.0;

/// The face of these keypoints as a face network wants it: [`CROP_SIDE`] pixels a side, eyes, nose and mouth where [`TEMPLATE`] has them.
///
/// Bilinear, black outside of the picture, with positions rounded as `OpenCV`'s `warpAffine` rounds them (`imgwarp.cpp`: 1/1024, then 1/32 of a pixel), since
/// that is what the reference embeddings were made with. A face that is cut off by the border or is a few pixels wide is not refused.
///
/// # Errors
/// [`Error::Degenerate`].
pub fn align(photo: &Photo, keypoints: Keypoints) -> Result<Photo> {
    let back = Similarity::fit(&keypoints.0, &TEMPLATE)?.inverse();
    let mut rgb = Vec::with_capacity(3 * CROP_SIDE * CROP_SIDE);
    for y in 0..CROP_SIDE {
        for x in 0..CROP_SIDE {
            let (px, py) = (f64_of(x), f64_of(y));
            let column = position(back.a * px, -back.b * py + back.shift[0]);
            let row = position(back.b * px, back.a * py + back.shift[1]);
            rgb.extend(bilinear(photo, column, row));
        }
    }
    Ok(Photo::new(CROP_SIDE, CROP_SIDE, rgb))
}

/// A position in 32nds of a pixel: the part that depends on the column and the part that depends on the row are rounded apart.
#[expect(clippy::cast_possible_truncation, reason = "saturates, as OpenCV's does")]
fn position(by_column: f64, by_row: f64) -> i64 {
    let fine = (by_column * FINE).round_ties_even() as i64;
    let rest = (by_row * FINE).round_ties_even() as i64;
    // Far outside of any picture either way.
    (fine.clamp(-(1 << 40), 1 << 40) + rest.clamp(-(1 << 40), 1 << 40) + 16) >> 5
}

fn bilinear(photo: &Photo, column: i64, row: i64) -> [u8; 3] {
    let (x, y) = (column.div_euclid(PARTS), row.div_euclid(PARTS));
    let (fx, fy) = (column.rem_euclid(PARTS), row.rem_euclid(PARTS));
    let corners = [
        (x, y, (PARTS - fx) * (PARTS - fy)),
        (x + 1, y, fx * (PARTS - fy)),
        (x, y + 1, (PARTS - fx) * fy),
        (x + 1, y + 1, fx * fy),
    ];
    let mut sums = [PARTS * PARTS / 2; 3];
    for (x, y, weight) in corners {
        for (sum, value) in sums.iter_mut().zip(at(photo, x, y)) {
            *sum += weight * i64::from(value);
        }
    }
    // A weighted mean of bytes is a byte.
    sums.map(|sum| u8::try_from(sum / (PARTS * PARTS)).unwrap_or(u8::MAX))
}

/// Black outside.
fn at(photo: &Photo, x: i64, y: i64) -> [u8; 3] {
    match (usize::try_from(x), usize::try_from(y)) {
        (Ok(x), Ok(y)) if x < photo.width() && y < photo.height() => photo.pixel(x, y),
        _ => [0; 3],
    }
}

#[expect(clippy::cast_precision_loss, reason = "a column of 112")]
const fn f64_of(value: usize) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turned_and_scaled_template_is_brought_back() {
        let (sine, cosine) = 0.7_f64.sin_cos();
        let turned = TEMPLATE
            .map(|[x, y]| [3.0 * (cosine * x - sine * y) + 40.0, 3.0 * (sine * x + cosine * y) - 7.0]);
        let found = Similarity::fit(&turned, &TEMPLATE).unwrap();
        for (from, to) in turned.into_iter().zip(TEMPLATE) {
            let got = found.apply(from);
            assert!((got[0] - to[0]).abs() < 1e-9 && (got[1] - to[1]).abs() < 1e-9, "{got:?} {to:?}");
            let back = found.inverse().apply(to);
            assert!((back[0] - from[0]).abs() < 1e-9 && (back[1] - from[1]).abs() < 1e-9);
        }
    }

    /// The keypoints of the demo faces.
    #[test]
    fn points_that_do_not_fit_exactly() {
        let points = [[44.844, 59.5], [67.156, 59.5], [56.0, 67.375], [48.562, 74.375], [63.875, 73.5]];
        let found = Similarity::fit(&points, &TEMPLATE).unwrap();
        // The sum of squares is at its least: a small change of any of the four numbers makes it larger.
        let error = |s: Similarity| -> f64 {
            points
                .iter()
                .zip(&TEMPLATE)
                .map(|(p, t)| s.apply(*p).iter().zip(t).map(|(g, e)| (g - e).powi(2)).sum::<f64>())
                .sum()
        };
        let least = error(found);
        for step in [1e-3, -1e-3] {
            assert!(error(Similarity { a: found.a + step, ..found }) > least);
            assert!(error(Similarity { b: found.b + step, ..found }) > least);
            assert!(error(Similarity { shift: [found.shift[0] + step, found.shift[1]], ..found }) > least);
            assert!(error(Similarity { shift: [found.shift[0], found.shift[1] + step], ..found }) > least);
        }
    }

    #[test]
    fn the_template_itself_gives_the_picture_back() {
        let rgb: Vec<u8> =
            (0..3 * CROP_SIDE * CROP_SIDE).map(|value| u8::try_from(value * 7 % 251).unwrap()).collect();
        let photo = Photo::new(CROP_SIDE, CROP_SIDE, rgb);
        assert_eq!(align(&photo, Keypoints(TEMPLATE)).unwrap(), photo);
    }

    #[test]
    fn what_is_outside_is_black() {
        let photo = Photo::new(2, 1, vec![255; 6]);
        let crop = align(&photo, Keypoints(TEMPLATE)).unwrap();
        assert_eq!(crop.pixel(1, 0), [255; 3]);
        assert_eq!(crop.pixel(2, 0), [0; 3]);
        assert_eq!(crop.pixel(111, 111), [0; 3]);
    }

    #[test]
    fn one_point_five_times_is_refused() {
        let refused = align(&Photo::new(1, 1, vec![0; 3]), Keypoints([[3.0, 4.0]; 5])).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "five keypoints around 3 4 give no size: no face can be aligned by them"
        );
    }

    #[test]
    fn points_whose_squares_are_no_number_are_refused() {
        let far = Keypoints([[1e300, 0.0], [0.0, 1e300], [0.0, 0.0], [1.0, 0.0], [-1e300, 5.0]]);
        assert!(matches!(align(&Photo::new(1, 1, vec![0; 3]), far), Err(Error::Degenerate { .. })));
    }
}
