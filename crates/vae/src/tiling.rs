use std::ops::Range;

use crate::{Error, Result};

/// Pictures of more pixels are computed in tiles unless the caller says otherwise.
pub const WHOLE_PIXELS_MAX: usize = 1_500_000;

/// Pixels along one side of a tile that nobody asked for: the size that the models are trained at.
const TILE_PIXELS: usize = 1024;

/// The fewest latent positions along one side of a tile: a quarter of them is the overlap.
const TILE_LEAST: usize = 4;

/// Overlapping tiles, counted in latent positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    tile: usize,
}

impl Tiling {
    /// Tiles of `pixels` pixels along each side, for an autoencoder where one latent position stands for `factor` pixels.
    ///
    /// # Errors
    /// [`Error::Tile`] if that is no multiple of the factor, or less than 4 latent positions.
    pub const fn new(pixels: usize, factor: usize) -> Result<Self> {
        let least = TILE_LEAST * factor;
        if factor == 0 || pixels < least || !pixels.is_multiple_of(factor) {
            return Err(Error::Tile { pixels, multiple: factor, least });
        }
        Ok(Self { tile: pixels / factor })
    }

    /// What a picture of `height` x `width` pixels should be computed in: tiles of `asked` pixels if the caller asks, else by size
    /// alone: whole up to [`WHOLE_PIXELS_MAX`], tiles of 1024 pixels above.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn choose(height: usize, width: usize, factor: usize, asked: Option<usize>) -> Result<Option<Self>> {
        match asked {
            Some(pixels) => Self::new(pixels, factor).map(Some),
            None if height.saturating_mul(width) <= WHOLE_PIXELS_MAX => Ok(None),
            None => {
                Self::new(TILE_PIXELS.next_multiple_of(factor).max(TILE_LEAST * factor), factor).map(Some)
            }
        }
    }

    /// The tiles along one side of `extent` latent positions.
    #[must_use]
    pub fn axis(self, extent: usize) -> Axis {
        if extent <= self.tile {
            return Axis::whole(extent);
        }
        Axis { extent, tile: self.tile, overlap: self.tile / 4 }
    }
}

/// The tiles along one side of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    extent: usize,
    tile: usize,
    overlap: usize,
}

impl Axis {
    /// One tile as long as the image.
    #[must_use]
    pub const fn whole(extent: usize) -> Self {
        Self { extent, tile: extent, overlap: 0 }
    }

    /// How many tiles.
    #[must_use]
    pub const fn count(self) -> usize {
        let stride = self.tile - self.overlap;
        if self.extent <= self.tile { 1 } else { (self.extent - self.tile).div_ceil(stride) + 1 }
    }

    /// The `index`-th tile, in latent positions: starts are multiples of the stride, the last is clamped, so that it ends where the
    /// image ends. All tiles are equally long.
    #[must_use]
    pub fn span(self, index: usize) -> Range<usize> {
        let start = (index * (self.tile - self.overlap)).min(self.extent - self.tile);
        start..start + self.tile
    }

    /// The `index`-th tile's weight at each of its positions, where a latent position stands for `scale` positions. Towards a
    /// neighbour the weight falls linearly over the overlap; then it is divided by the sum of all tiles' weights at that position, so
    /// that they sum to 1 (and a position that one tile alone covers has exactly 1).
    #[must_use]
    pub fn weights(self, index: usize, scale: usize) -> Vec<f32> {
        let span = self.span(index);
        let total = |at: usize| -> f64 { (0..self.count()).map(|tile| self.ramp(tile, at, scale)).sum() };
        #[expect(clippy::cast_possible_truncation, reason = "rounded to f32 on purpose")]
        (span.start * scale..span.end * scale)
            .map(|at| (self.ramp(index, at, scale) / total(at)) as f32)
            .collect()
    }

    /// The weight before the division: 1 inside, at the n-th position from an edge that has a neighbour (n + 1/2) / overlap.
    fn ramp(self, index: usize, at: usize, scale: usize) -> f64 {
        let span = self.span(index);
        let (start, end) = (span.start * scale, span.end * scale);
        if !(start..end).contains(&at) {
            return 0.0;
        }
        let overlap = (self.overlap * scale).max(1);
        #[expect(clippy::cast_precision_loss, reason = "positions of an image are below 2^52")]
        let rise = |distance: usize| ((distance as f64 + 0.5) / overlap as f64).min(1.0);
        let left = if span.start == 0 { 1.0 } else { rise(at - start) };
        let right = if span.end == self.extent { 1.0 } else { rise(end - 1 - at) };
        left * right
    }
}

#[cfg(test)]
mod tests {
    use lighterage_testkit::Rng;

    use super::*;

    fn check_cover(extent: usize, tile: usize, scale: usize) {
        let axis = Tiling::new(tile, 1).unwrap().axis(extent);
        let mut sums = vec![0.0_f64; extent * scale];
        for index in 0..axis.count() {
            let span = axis.span(index);
            assert_eq!(span.len(), tile.min(extent), "extent {extent}, tile {tile}, index {index}");
            assert!(span.end <= extent, "tile {span:?} leaves {extent}");
            let weights = axis.weights(index, scale);
            for (sum, weight) in sums[span.start * scale..].iter_mut().zip(weights) {
                assert!(weight > 0.0, "extent {extent}, tile {tile}: a weight of {weight}");
                *sum += f64::from(weight);
            }
        }
        // At most four tiles overlap (three by stride and the clamped one), each rounded once to f32: 4 * 2^-25.
        let worst = sums.iter().map(|sum| (sum - 1.0).abs()).fold(0.0, f64::max);
        assert!(
            worst <= 1.2e-7,
            "extent {extent}, tile {tile}, scale {scale}: the weights miss 1 by {worst:e}"
        );
    }

    #[test]
    fn weights_sum_to_one_at_every_position() {
        let mut rng = Rng::from_env(11);
        for _ in 0..200 {
            let mut draw = |low: u64, high: u64| usize::try_from(low + rng.below(high - low)).unwrap();
            check_cover(draw(1, 300), draw(4, 70), draw(1, 9));
        }
    }

    #[test]
    fn one_more_than_a_tile_takes_two() {
        let axis = Tiling::new(64, 8).unwrap().axis(9);
        assert_eq!((axis.count(), axis.span(0), axis.span(1)), (2, 0..8, 1..9));
        check_cover(9, 8, 8);
    }

    #[test]
    fn an_image_in_one_tile_has_weight_one() {
        for axis in [Tiling::new(64, 8).unwrap().axis(8), Tiling::new(64, 8).unwrap().axis(3), Axis::whole(5)]
        {
            assert_eq!(axis.count(), 1);
            assert!(axis.weights(0, 8).iter().all(|weight| *weight == 1.0));
        }
    }

    #[test]
    fn last_tile_ends_at_the_border() {
        let axis = Tiling::new(128 * 8, 8).unwrap().axis(160);
        assert_eq!((axis.count(), axis.span(0), axis.span(1)), (2, 0..128, 32..160));
    }

    #[test]
    fn size_alone_decides_unless_asked() {
        assert_eq!(Tiling::choose(1000, 1500, 8, None).unwrap(), None);
        assert_eq!(Tiling::choose(1000, 1501, 8, None).unwrap(), Some(Tiling { tile: 128 }));
        assert_eq!(Tiling::choose(64, 64, 8, Some(32)).unwrap(), Some(Tiling { tile: 4 }));
    }

    #[test]
    fn impossible_tiles_are_refused_with_their_numbers() {
        for pixels in [0, 24, 36] {
            let error = Tiling::choose(64, 64, 8, Some(pixels)).unwrap_err().to_string();
            assert!(
                error.contains(&format!("a tile of {pixels} pixels")) && error.contains("least 32"),
                "{error}"
            );
        }
    }
}
