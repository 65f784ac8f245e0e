use std::path::Path;

use lighterage_ops::ActivationKind;
use serde::Deserialize;

use crate::{Error, Result};

/// The sizes of a T5 encoder, as `config.json` has them; other fields are ignored.
///
/// ```
/// use lighterage_text::t5::Config;
/// let config = Config::from_json(
///     r#"{"d_model": 64, "d_kv": 8, "d_ff": 96, "num_heads": 3, "num_layers": 2, "feed_forward_proj": "gated-gelu"}"#,
/// )?;
/// assert_eq!((config.inner(), config.relative_attention_num_buckets), (24, 32));
/// # Ok::<(), lighterage_text::Error>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// Columns of the hidden states.
    pub d_model: usize,
    /// Columns of one head; independent of the other sizes.
    pub d_kv: usize,
    /// Columns inside of the feed-forward part.
    pub d_ff: usize,
    /// Heads.
    pub num_heads: usize,
    /// Blocks of the encoder.
    pub num_layers: usize,
    /// Rows of the position bias's table.
    #[serde(default = "default_buckets")]
    pub relative_attention_num_buckets: usize,
    /// Distances from here on share a bucket.
    #[serde(default = "default_distance")]
    pub relative_attention_max_distance: usize,
    /// Added to the mean square in every norm.
    #[serde(default = "default_epsilon")]
    pub layer_norm_epsilon: f32,
    /// What the feed-forward part is.
    #[serde(default)]
    pub feed_forward_proj: FeedForward,
}

/// The feed-forward part, as `feed_forward_proj` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeedForward {
    /// `wo(relu(wi x))`: the first T5, and transformers' default.
    #[default]
    Relu,
    /// `wo(gelu(wi x))`, with the error function.
    Gelu,
    /// `wo(gelu(wi_0 x) * wi_1 x)`, with the hyperbolic tangent: T5 1.1, and so FLUX.
    GatedGelu,
}

impl FeedForward {
    /// The activation where there is no gate.
    pub(crate) const fn plain(self) -> Option<ActivationKind> {
        match self {
            Self::Relu => Some(ActivationKind::Relu),
            Self::Gelu => Some(ActivationKind::Gelu),
            Self::GatedGelu => None,
        }
    }
}

impl Config {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// [`Error::Json`] for a missing field or an unknown feed-forward part, [`Error::Config`] for sizes that cannot be.
    pub fn from_json(text: &str) -> Result<Self> {
        let config: Self = serde_json::from_str(text)?;
        config.check()?;
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

    /// Columns of all heads together.
    #[must_use]
    pub const fn inner(&self) -> usize {
        self.d_kv * self.num_heads
    }

    fn check(&self) -> Result<()> {
        // Half of the buckets are for keys behind the query, and half of those for exact distances.
        let exact = self.relative_attention_num_buckets / 4;
        let sizes = [
            ("d_model", self.d_model, 1, "1 or more"),
            ("d_kv", self.d_kv, 1, "1 or more"),
            ("d_ff", self.d_ff, 1, "1 or more"),
            ("num_heads", self.num_heads, 1, "1 or more"),
            ("relative_attention_num_buckets", self.relative_attention_num_buckets, 4, "4 or more"),
            (
                "relative_attention_max_distance",
                self.relative_attention_max_distance,
                exact + 1,
                "above num_buckets / 4",
            ),
        ];
        if let Some((name, got, _, needs)) = sizes.into_iter().find(|(_, got, least, _)| got < least) {
            return Err(Error::Config { name, got: got.to_string(), needs });
        }
        if !(0.0..=1.0).contains(&self.layer_norm_epsilon) {
            let (name, got) = ("layer_norm_epsilon", self.layer_norm_epsilon.to_string());
            return Err(Error::Config { name, got, needs: "0 to 1" });
        }
        Ok(())
    }
}

const fn default_buckets() -> usize {
    32
}

const fn default_distance() -> usize {
    128
}

const fn default_epsilon() -> f32 {
    1e-6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_refused(extra: &str, expected: &str) {
        let sizes = r#""d_model": 64, "d_kv": 8, "d_ff": 96, "num_layers": 2"#;
        let error = Config::from_json(&format!("{{{sizes}, {extra}}}")).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn an_unknown_feed_forward_part_is_refused_by_name() {
        check_refused(r#""num_heads": 4, "feed_forward_proj": "gated-silu""#, "unknown variant `gated-silu`");
    }

    #[test]
    fn the_feed_forward_part_of_the_first_t5_is_the_default() {
        let sizes = r#""d_model": 64, "d_kv": 8, "d_ff": 96, "num_layers": 2, "num_heads": 4"#;
        let config = Config::from_json(&format!("{{{sizes}}}")).unwrap();
        assert_eq!(config.feed_forward_proj, FeedForward::Relu);
    }

    #[test]
    fn impossible_sizes_are_refused_by_name() {
        let gated = r#""feed_forward_proj": "gated-gelu""#;
        check_refused(&format!(r#""num_heads": 0, {gated}"#), "num_heads is 0");
        check_refused(
            &format!(r#""num_heads": 1, "layer_norm_epsilon": -1, {gated}"#),
            "layer_norm_epsilon is -1, should be 0 to 1",
        );
        check_refused(
            &format!(r#""num_heads": 1, "relative_attention_num_buckets": 3, {gated}"#),
            "num_buckets is 3",
        );
        check_refused(
            &format!(r#""num_heads": 1, "relative_attention_max_distance": 8, {gated}"#),
            "max_distance is 8",
        );
    }

    #[test]
    fn missing_field_is_named() {
        check_refused(r#""feed_forward_proj": "gated-gelu""#, "num_heads");
    }
}
