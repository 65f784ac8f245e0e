use std::cell::LazyCell;

use lighterage_device::Backend;
use lighterage_ops::{Queue, Tensor};
use lighterage_shape::DType;

use crate::{Config, Result};

/// Base of the frequencies (Su et al. 2021; FLUX keeps it).
const THETA: f64 = 10_000.0;

/// The rotations of every token: cosines and sines, f32 `[tokens, head / 2]`, one pair of neighbours each.
///
/// A position has three components (always 0, row, column), and each rotates its own run of pairs: axis `a` of `d_a` elements has the
/// angles `id_a * 10000^(-2 i / d_a)`, `i < d_a / 2`. Angles are computed in f64 and their cosines and sines rounded to f32, as diffusers and
/// `DiffSynth` do. Text tokens stand at (0, 0, 0) and are not rotated.
#[derive(Debug)]
pub struct Rope<B: Backend> {
    pub(crate) cos: Tensor<B>,
    pub(crate) sin: Tensor<B>,
}

impl<B: Backend> Rope<B> {
    /// Rotations for the given positions, text tokens first.
    ///
    /// # Errors
    /// [`Error::Ops`](crate::Error::Ops) if there is no memory.
    pub fn new(queue: &Queue<B>, config: &Config, ids: &[[f32; 3]]) -> Result<Self> {
        let angles = LazyCell::new(|| -> Vec<f64> {
            ids.iter().flat_map(|id| angles(config.axes_dims_rope, *id)).collect()
        });
        let shape = [ids.len(), config.attention_head_dim / 2];
        let table = |function: fn(f64) -> f64, tag| -> Result<Tensor<B>> {
            #[expect(clippy::cast_possible_truncation, reason = "rounded to f32 on purpose")]
            let values = || angles.iter().map(|angle| function(*angle) as f32).collect();
            Ok(queue.upload_made(DType::F32, &shape, tag, values)?)
        };
        Ok(Self { cos: table(f64::cos, "rope cos")?, sin: table(f64::sin, "rope sin")? })
    }

    /// Rotations for `text_tokens` text tokens and an image of `height` x `width` tokens in row order.
    ///
    /// # Errors
    /// As [`new`](Rope::new).
    pub fn grid(
        queue: &Queue<B>,
        config: &Config,
        text_tokens: usize,
        height: usize,
        width: usize,
    ) -> Result<Self> {
        let mut ids = vec![[0.0; 3]; text_tokens];
        ids.extend((0..height).flat_map(|row| (0..width).map(move |column| position(row, column))));
        Self::new(queue, config, &ids)
    }

    /// How many tokens it has rotations for.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.cos.shape()[0]
    }
}

#[expect(clippy::cast_precision_loss, reason = "an image has fewer than 2^24 tokens a side")]
const fn position(row: usize, column: usize) -> [f32; 3] {
    [0.0, row as f32, column as f32]
}

#[expect(clippy::cast_precision_loss, reason = "a head has fewer than 2^53 elements")]
fn angles(axes: [usize; 3], id: [f32; 3]) -> impl Iterator<Item = f64> {
    axes.into_iter().zip(id).flat_map(|(axis, id)| {
        (0..axis / 2).map(move |pair| f64::from(id) / THETA.powf((2 * pair) as f64 / axis as f64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_axis_starts_its_frequencies_anew() {
        let found: Vec<f64> = angles([4, 2, 6], [3.0, 5.0, 7.0]).collect();
        let expected =
            [3.0, 3.0 / 100.0, 5.0, 7.0, 7.0 / 10_000_f64.powf(1.0 / 3.0), 7.0 / 10_000_f64.powf(2.0 / 3.0)];
        assert_eq!(found.len(), 6);
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }

    #[test]
    fn text_is_not_rotated() {
        assert!(angles([16, 56, 56], [0.0; 3]).all(|angle| angle == 0.0));
    }
}
