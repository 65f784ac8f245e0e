use std::path::Path;

use serde::Deserialize;

use crate::{Error, Result};

/// The sizes of an `AutoencoderKL`, as diffusers' `config.json` has them; other fields are ignored, and missing ones are
/// diffusers' defaults.
///
/// ```
/// use lighterage_vae::Config;
/// let config = Config::from_json(
///     r#"{"block_out_channels": [16, 32], "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 16,
///         "scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": false, "use_post_quant_conv": false}"#,
/// )?;
/// assert_eq!(config.factor(), 2);
/// # Ok::<(), lighterage_vae::Error>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Channels of a picture to encode.
    pub in_channels: usize,
    /// Channels of a decoded picture.
    pub out_channels: usize,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Channels of each level, at full size first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Divides every level's channels.
    pub norm_num_groups: usize,
    /// Whether there is attention in the middle.
    pub mid_block_add_attention: bool,
    /// Whether a 1x1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1x1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// `latent = (z - shift_factor) * scaling_factor`.
    pub scaling_factor: f32,
    /// See `scaling_factor`; none is 0.
    pub shift_factor: Option<f32>,
    act_fn: String,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            block_out_channels: vec![64],
            layers_per_block: 1,
            norm_num_groups: 32,
            mid_block_add_attention: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            scaling_factor: 0.18215,
            shift_factor: None,
            act_fn: "silu".to_owned(),
            down_block_types: Vec::new(),
            up_block_types: Vec::new(),
        }
    }
}

impl Config {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// [`Error::Json`] for what is not such a text, [`Error::Config`] for a block, an activation or sizes that cannot be.
    pub fn from_json(text: &str) -> Result<Self> {
        let config: Self = serde_json::from_str(text)?;
        config.check_kinds()?;
        config.check_sizes()?;
        Ok(config)
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json), with the file's name.
    pub fn open(path: &Path) -> Result<Self> {
        let read = || Self::from_json(&std::fs::read_to_string(path)?);
        read().map_err(|error: Error| error.within(path))
    }

    /// The autoencoder of all FLUX.1 models, whose `ae.safetensors` comes without a `config.json`.
    #[must_use]
    pub fn flux() -> Self {
        Self {
            latent_channels: 16,
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            use_quant_conv: false,
            use_post_quant_conv: false,
            scaling_factor: 0.3611,
            shift_factor: Some(0.1159),
            ..Self::default()
        }
    }

    /// Pixels along one side that one latent position stands for.
    #[must_use]
    pub const fn factor(&self) -> usize {
        1 << (self.levels() - 1)
    }

    pub(crate) const fn levels(&self) -> usize {
        self.block_out_channels.len()
    }

    /// Channels of the middle.
    pub(crate) fn middle(&self) -> usize {
        self.block_out_channels[self.levels() - 1]
    }

    fn check_kinds(&self) -> Result<()> {
        let down = self.down_block_types.iter().map(|kind| ("down_block_types", kind, "DownEncoderBlock2D"));
        let up = self.up_block_types.iter().map(|kind| ("up_block_types", kind, "UpDecoderBlock2D"));
        let activation = std::iter::once(("act_fn", &self.act_fn, "silu"));
        match down.chain(up).chain(activation).find(|(_, got, needs)| got != needs) {
            Some((name, got, needs)) => Err(Error::Config { name, got: got.clone(), needs }),
            None => Ok(()),
        }
    }

    fn check_sizes(&self) -> Result<()> {
        let groups = self.norm_num_groups;
        let divisible = |channels: &usize| *channels > 0 && channels.is_multiple_of(groups);
        let channels = [self.in_channels, self.out_channels, self.latent_channels];
        let rules = [
            ("norm_num_groups", groups > 0, groups.to_string(), "1 or more"),
            ("layers_per_block", self.layers_per_block > 0, self.layers_per_block.to_string(), "1 or more"),
            ("in, out and latent channels", !channels.contains(&0), format!("{channels:?}"), "1 or more"),
            (
                "block_out_channels",
                (1..=16).contains(&self.levels())
                    && groups > 0
                    && self.block_out_channels.iter().all(divisible),
                format!("{:?}", self.block_out_channels),
                "1 to 16 multiples of norm_num_groups",
            ),
            // Latents are divided by it.
            (
                "scaling_factor",
                self.scaling_factor.is_finite() && self.scaling_factor > 0.0,
                self.scaling_factor.to_string(),
                "a number above 0",
            ),
        ];
        match rules.into_iter().find(|(_, holds, ..)| !holds) {
            Some((name, _, got, needs)) => Err(Error::Config { name, got, needs }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_refused(text: &str, expected: &str) {
        let error = Config::from_json(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn missing_fields_are_the_defaults_of_diffusers() {
        let config = Config::from_json("{}").unwrap();
        assert!(config.use_quant_conv && config.use_post_quant_conv && config.mid_block_add_attention);
        assert_eq!((config.factor(), config.latent_channels, config.norm_num_groups), (1, 4, 32));
    }

    #[test]
    fn what_the_model_cannot_do_is_named() {
        check_refused(r#"{"act_fn": "relu"}"#, "act_fn is relu, should be silu");
        check_refused(r#"{"scaling_factor": 0}"#, "scaling_factor is 0, should be a number above 0");
        check_refused(r#"{"scaling_factor": -1}"#, "scaling_factor is -1, should be");
        check_refused(r#"{"scaling_factor": 1e39}"#, "scaling_factor is inf, should be");
        check_refused(r#"{"down_block_types": ["AttnDownEncoderBlock2D"]}"#, "down_block_types is AttnDown");
        check_refused(r#"{"up_block_types": ["UpDecoderBlock2D", "UpBlock"]}"#, "up_block_types is UpBlock");
        check_refused(r#"{"block_out_channels": [32, 40]}"#, "block_out_channels is [32, 40]");
        check_refused(r#"{"block_out_channels": []}"#, "block_out_channels is []");
        check_refused(r#"{"norm_num_groups": 0}"#, "norm_num_groups is 0");
        check_refused(r#"{"latent_channels": 0}"#, "[3, 3, 0]");
        check_refused(r#"{"layers_per_block": 0}"#, "layers_per_block is 0");
    }
}
