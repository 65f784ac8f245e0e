use lighterage_shape::DType;
use lighterage_vae::Tiling;

use crate::error::option;
use crate::{Face, Noise, Result, Schedule, SchedulerConfig, Spacing, TeaCache};

/// Pixels along one side that one latent position stands for, in every FLUX model.
pub(crate) const FACTOR: usize = 8;
/// Sides of a picture are multiples of this: the decoder's factor times the patch of 2.
pub const SIDE_STEP: usize = 2 * FACTOR;
/// The longest side: image tokens and their positions stay exact in f32 up to here, with room to spare.
pub const SIDE_MAX: usize = 16_384;
/// The most steps.
pub const STEPS_MAX: usize = 1000;
/// The most tokens of a prompt that FLUX was trained on, and that diffusers accepts.
pub const SEQUENCE_MAX: usize = 512;

/// What picture to make. [`Model::options`](crate::Model::options) fills in the model's defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// What is to be seen; may be empty.
    pub prompt: String,
    /// Of the noise, as `torch.Generator.manual_seed` takes it; the CPU generator looks at the low 32 bits.
    pub seed: u64,
    /// 1 to [`STEPS_MAX`].
    pub steps: usize,
    /// Pixels: a multiple of [`SIDE_STEP`], up to [`SIDE_MAX`].
    pub width: usize,
    /// Pixels, as `width`.
    pub height: usize,
    /// Embedded guidance, finite and not negative. A model without guidance embedding does not look at it.
    pub guidance: f32,
    /// T5 tokens that the prompt is cut or padded to: 1 to [`SEQUENCE_MAX`].
    pub max_sequence_length: usize,
    /// Which rule spaces the noise levels.
    pub spacing: Spacing,
    /// Whose noise to draw.
    pub noise: Noise,
    /// Element type of weights and activations: bf16 or f32.
    pub dtype: DType,
    /// Side in pixels of the tiles to decode in; none: by size alone, see [`Tiling::choose`](lighterage_vae::Tiling::choose).
    pub vae_tile: Option<usize>,
    /// Whether to look for NaN and infinities in all weights first.
    pub check_weights: bool,
    /// What not to be seen, and how strongly (true classifier-free guidance): every step costs a second pass.
    pub negative: Option<Negation>,
    /// Which steps to skip; none: none.
    pub teacache: Option<TeaCache>,
    /// Whose picture it is to be; needs an [`InfiniteYou`](crate::InfiniteYou).
    pub face: Option<Face>,
}

/// A prompt to stay away from.
#[derive(Clone, Debug, PartialEq)]
pub struct Negation {
    /// What not to be seen; may be empty.
    pub prompt: String,
    /// The velocity becomes `negative + scale (positive - negative)`: finite and 0 or more; 1 is without it.
    pub scale: f32,
}

impl Options {
    /// Refuses what cannot be done.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) with the option, its value and what would do.
    pub fn check(&self) -> Result<()> {
        check_size(self.width, self.height, self.steps)?;
        within("max_sequence_length", self.max_sequence_length, SEQUENCE_MAX)?;
        if let Some(tile) = self.vae_tile {
            Tiling::new(tile, FACTOR)?;
        }
        if !(self.guidance.is_finite() && self.guidance >= 0.0) {
            return option("guidance", self.guidance, "a finite number, 0 or more");
        }
        if let Some(Negation { scale, .. }) = &self.negative
            && !(scale.is_finite() && *scale >= 0.0)
        {
            return option("true-cfg", scale, "a finite number, 0 or more");
        }
        if let Some(TeaCache { threshold, .. }) = &self.teacache
            && !(threshold.is_finite() && *threshold >= 0.0)
        {
            return option("teacache", threshold, "a finite number, 0 or more");
        }
        if let Some(face) = &self.face {
            face.check(self)?;
        }
        match self.dtype {
            DType::Bf16 | DType::F32 => Ok(()),
            other => option("dtype", other, "BF16 or F32"),
        }
    }

    /// Rows and columns of the picture in tokens of 16 x 16 pixels.
    #[must_use]
    pub const fn grid(&self) -> Grid {
        Grid { rows: self.height / SIDE_STEP, columns: self.width / SIDE_STEP }
    }

    pub(crate) fn schedule(&self, config: &SchedulerConfig) -> Schedule {
        Schedule::new(self.spacing, config, self.steps, self.grid().tokens())
    }
}

/// A picture in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Height in tokens.
    pub rows: usize,
    /// Width in tokens.
    pub columns: usize,
}

impl Grid {
    /// All of them.
    #[must_use]
    pub const fn tokens(self) -> usize {
        self.rows * self.columns
    }
}

pub(crate) fn check_size(width: usize, height: usize, steps: usize) -> Result<()> {
    check_side("width", width)?;
    check_side("height", height)?;
    within("steps", steps, STEPS_MAX)
}

fn within(name: &'static str, got: usize, max: usize) -> Result<()> {
    if (1..=max).contains(&got) { Ok(()) } else { option(name, got, format!("1 to {max}")) }
}

fn check_side(name: &'static str, side: usize) -> Result<()> {
    if !(SIDE_STEP..=SIDE_MAX).contains(&side) {
        return option(name, side, format!("a multiple of {SIDE_STEP} from {SIDE_STEP} to {SIDE_MAX}"));
    }
    if side.is_multiple_of(SIDE_STEP) {
        return Ok(());
    }
    let below = side - side % SIDE_STEP;
    let above = below + SIDE_STEP;
    option(name, side, format!("a multiple of {SIDE_STEP}: {below} or {above}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            prompt: String::new(),
            seed: 0,
            steps: 1,
            width: 64,
            height: 64,
            guidance: 3.5,
            max_sequence_length: 512,
            spacing: Spacing::Diffusers,
            noise: Noise::Cpu,
            dtype: DType::Bf16,
            vae_tile: None,
            check_weights: false,
            negative: None,
            teacache: None,
            face: None,
        }
    }

    fn check(change: impl FnOnce(&mut Options), expected: &str) {
        let mut changed = options();
        change(&mut changed);
        assert_eq!(changed.check().unwrap_err().to_string(), expected);
    }

    #[test]
    fn what_can_be_done_is_accepted() {
        options().check().unwrap();
        Options { width: 16, height: SIDE_MAX, guidance: 0.0, dtype: DType::F32, ..options() }
            .check()
            .unwrap();
    }

    #[test]
    fn nearest_sides_are_named() {
        check(|options| options.width = 1080, "width is 1080, should be a multiple of 16: 1072 or 1088");
        check(|options| options.height = 17, "height is 17, should be a multiple of 16: 16 or 32");
        check(|options| options.height = 0, "height is 0, should be a multiple of 16 from 16 to 16384");
        check(
            |options| options.width = 16_400,
            "width is 16400, should be a multiple of 16 from 16 to 16384",
        );
    }

    #[test]
    fn numbers_outside_are_refused_with_their_range() {
        check(|options| options.steps = 0, "steps is 0, should be 1 to 1000");
        check(|options| options.steps = 1001, "steps is 1001, should be 1 to 1000");
        check(|options| options.max_sequence_length = 513, "max_sequence_length is 513, should be 1 to 512");
        check(|options| options.guidance = f32::NAN, "guidance is NaN, should be a finite number, 0 or more");
        check(|options| options.guidance = -1.0, "guidance is -1, should be a finite number, 0 or more");
        check(
            |options| options.vae_tile = Some(12),
            "a tile of 12 pixels; it should be a multiple of 8, at least 32",
        );
        check(|options| options.dtype = DType::F16, "dtype is F16, should be BF16 or F32");
    }
}
