//! From what the decoder says to pixels, and from noise to packed latents.
use crate::{Grid, Report};

/// A picture and what was asked to be kept of its making.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// `[height, width, 3]`, red, green, blue; none where memory has no bytes (`Sim`).
    pub rgb: Option<Vec<u8>>,
    /// Values of the picture that are no numbers, or infinite: 0 unless the weights are broken or an option is absurd. Such a pixel is black or white.
    pub not_finite: usize,
    /// The latents after the last step, packed, `[1, tokens, channels]`, if they were to be kept.
    pub latents: Option<Vec<f32>>,
    /// The latents after each step, as `latents`, if they were to be kept; else none.
    pub steps: Vec<Vec<f32>>,
    /// What the text encoders made of the prompt, if it was to be kept.
    pub prompt: Option<PromptValues>,
    /// What the projector made of the face, `[tokens, joint]`, if it was to be kept.
    pub tokens: Option<Vec<f32>>,
    /// What it took.
    pub report: Report,
}

/// What the text encoders make of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptValues {
    /// T5's states, `[tokens, joint]`.
    pub states: Vec<f32>,
    /// CLIP's pooled vector, `[pooled]`.
    pub pooled: Vec<f32>,
}

/// What to keep of a run besides the pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// [`Picture::latents`].
    pub latents: bool,
    /// [`Picture::prompt`] and [`Picture::tokens`].
    pub prompt: bool,
    /// [`Picture::steps`]; the device is drained after every step then.
    pub steps: bool,
}

/// A decoded value, -1 to 1, as a pixel: diffusers' `VaeImageProcessor`, which rounds half to even.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 255, NaN becomes 0")]
pub fn pixel(value: f32) -> u8 {
    ((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
}

/// FLUX's packing of 2 x 2 patches: `[channels, 2 rows, 2 columns]` becomes `[rows columns, 4 channels]`, channel-major inside a token.
///
/// # Panics
/// If there are fewer values.
#[must_use]
pub fn pack(values: &[f32], channels: usize, grid: Grid) -> Vec<f32> {
    let (height, width) = (2 * grid.rows, 2 * grid.columns);
    let mut tokens = Vec::with_capacity(values.len());
    for row in 0..grid.rows {
        for column in 0..grid.columns {
            for channel in 0..channels {
                for y in 0..2 {
                    let start = (channel * height + 2 * row + y) * width + 2 * column;
                    tokens.extend_from_slice(&values[start..start + 2]);
                }
            }
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_clamped_and_rounded_half_to_even() {
        assert_eq!([-2.0, -1.0, 0.0, 1.0, 7.0, f32::NAN].map(pixel), [0, 0, 128, 255, 255, 0]);
        // 126.5 and 127.5 of 255.
        assert_eq!(pixel(126.5 / 127.5 - 1.0), 126);
        assert_eq!(pixel(0.0), 128);
    }

    #[test]
    fn a_token_is_channel_major() {
        // Two channels of 2 x 4: channel c, row y, column x holds 100 c + 10 y + x.
        let grid = Grid { rows: 1, columns: 2 };
        let values: Vec<f32> = [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0].into_iter().collect();
        let values: Vec<f32> =
            values.iter().copied().chain(values.iter().map(|value| value + 100.0)).collect();
        let first = [0.0, 1.0, 10.0, 11.0, 100.0, 101.0, 110.0, 111.0];
        let second = [2.0, 3.0, 12.0, 13.0, 102.0, 103.0, 112.0, 113.0];
        assert_eq!(pack(&values, 2, grid), [first, second].concat());
    }
}
