use std::path::Path;

use serde::Deserialize;

use crate::{Error, Result};

/// The largest extent that a configuration may name: far above any model, far below an overflow.
const EXTENT_MAX: usize = 1 << 24;

/// What `config.json` of a FLUX transformer or of an InfuseNet says, under diffusers' names.
///
/// Extents have to be there. Of what the published files leave out, the defaults are those of diffusers' `FluxTransformer2DModel`.
///
/// ```
/// # use lighterage_dit::Config;
/// let config = Config::parse(r#"{
///     "in_channels": 64, "num_layers": 2, "num_single_layers": 4, "attention_head_dim": 64, "num_attention_heads": 3,
///     "joint_attention_dim": 64, "pooled_projection_dim": 32, "guidance_embeds": true, "axes_dims_rope": [8, 28, 28]
/// }"#, "config.json".as_ref())?;
/// assert_eq!((config.width(), config.out_channels()), (192, 64));
/// # Ok::<(), lighterage_dit::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Config {
    /// Channels of a packed latent token: 16 latent channels times a patch of 2 x 2.
    pub in_channels: usize,
    /// Channels of the velocity; none: as `in_channels`.
    #[serde(default)]
    pub out_channels: Option<usize>,
    /// Double blocks, with separate weights for text and image.
    pub num_layers: usize,
    /// Single blocks, with one set of weights for both.
    pub num_single_layers: usize,
    /// Elements of one head.
    pub attention_head_dim: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Columns of the text states (T5).
    pub joint_attention_dim: usize,
    /// Elements of the pooled text vector (CLIP).
    pub pooled_projection_dim: usize,
    /// Whether the guidance is an input (dev) or not (schnell).
    #[serde(default)]
    pub guidance_embeds: bool,
    /// Elements of a head that each of the three position axes rotates.
    #[serde(default = "flux_axes")]
    pub axes_dims_rope: [usize; 3],
    /// Always 1: latents come packed.
    #[serde(default = "one")]
    pub patch_size: usize,
    /// Modes of a union `ControlNet`, which no InfuseNet is.
    #[serde(default)]
    pub num_mode: Option<usize>,
    /// Channels of a `ControlNet`'s hint network, which no InfuseNet has.
    #[serde(default)]
    pub conditioning_embedding_channels: Option<usize>,
}

impl Config {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Json`], [`Error::Config`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.into(), source })?;
        Self::parse(&text, path).map_err(|error| error.within(path))
    }

    /// Checks the text of a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::Config`].
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let config: Self =
            serde_json::from_str(text).map_err(|source| Error::Json { path: path.into(), source })?;
        config.check()?;
        Ok(config)
    }

    /// Whether such a model can exist. The models check it again, so a configuration made by hand is safe too.
    ///
    /// # Errors
    /// [`Error::Config`] with the first value that cannot be.
    pub fn check(&self) -> Result<()> {
        self.check_extents()?;
        self.check_axes()?;
        refuse(self.patch_size != 1, "patch_size", self.patch_size.to_string(), "1: latents come packed")?;
        let channels = self.conditioning_embedding_channels;
        absent("num_mode", self.num_mode, "null: no union ControlNet")?;
        absent("conditioning_embedding_channels", channels, "null: the control input is a packed latent")
    }

    /// Columns of the residual stream: heads times the elements of a head.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Channels of the velocity.
    #[must_use]
    pub fn out_channels(&self) -> usize {
        self.out_channels.unwrap_or(self.in_channels)
    }

    fn check_extents(&self) -> Result<()> {
        let extents = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels()),
            ("attention_head_dim", self.attention_head_dim),
            ("num_attention_heads", self.num_attention_heads),
            ("joint_attention_dim", self.joint_attention_dim),
            ("pooled_projection_dim", self.pooled_projection_dim),
        ];
        for (name, extent) in extents {
            refuse(!(1..=EXTENT_MAX).contains(&extent), name, extent.to_string(), "between 1 and 2^24")?;
        }
        let width = self.num_attention_heads.saturating_mul(self.attention_head_dim);
        refuse(
            width > EXTENT_MAX,
            "num_attention_heads x attention_head_dim",
            width.to_string(),
            "at most 2^24",
        )
    }

    fn check_axes(&self) -> Result<()> {
        let axes = self.axes_dims_rope;
        let even = axes.iter().all(|axis| axis.is_multiple_of(2));
        refuse(!even, "axes_dims_rope", format!("{axes:?}"), "even: pairs are rotated")?;
        let sum = axes.iter().fold(0_usize, |sum, axis| sum.saturating_add(*axis));
        let needs = format!("{} in sum, the attention_head_dim", self.attention_head_dim);
        refuse(sum != self.attention_head_dim, "axes_dims_rope", format!("{axes:?}, {sum} in sum"), needs)
    }
}

/// The axes of the published models; their `config.json` leaves them out.
pub(crate) const fn flux_axes() -> [usize; 3] {
    [16, 56, 56]
}

const fn one() -> usize {
    1
}

fn absent(name: &'static str, got: Option<usize>, needs: &str) -> Result<()> {
    refuse(got.is_some(), name, got.map(|got| got.to_string()).unwrap_or_default(), needs)
}

fn refuse(bad: bool, name: &'static str, got: impl Into<String>, needs: impl Into<String>) -> Result<()> {
    if bad { Err(Error::Config { name, got: got.into(), needs: needs.into() }) } else { Ok(()) }
}
