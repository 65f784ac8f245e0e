use std::path::Path;

use lighterage_ops::ActivationKind;
use serde::Deserialize;

use crate::{Error, Result};

/// The sizes of a CLIP text encoder, as `config.json` has them; other fields are ignored.
///
/// ```
/// use lighterage_text::clip::Config;
/// let config = Config::from_json(
///     r#"{"hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2,
///         "max_position_embeddings": 77, "hidden_act": "quick_gelu", "eos_token_id": 2}"#,
/// )?;
/// assert_eq!(config.head_dim(), 16);
/// # Ok::<(), lighterage_text::Error>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// Columns of the hidden states.
    pub hidden_size: usize,
    /// Columns inside of the feed-forward part.
    pub intermediate_size: usize,
    /// Divides the hidden size.
    pub num_attention_heads: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// The longest sequence.
    #[serde(default = "default_positions")]
    pub max_position_embeddings: usize,
    /// Activation of the feed-forward part.
    #[serde(default)]
    pub hidden_act: Activation,
    /// Added to the variance in every norm.
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f32,
    /// The id that ends a text; 2 stands for an old mistake, see [`end_position`](Self::end_position).
    #[serde(default = "default_eos")]
    pub eos_token_id: u32,
}

/// What the feed-forward part may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x sigmoid(1.702 x)`: `OpenAI`'s models.
    #[default]
    QuickGelu,
    /// With the error function: the models of `OpenCLIP`.
    Gelu,
    /// With the hyperbolic tangent.
    #[serde(alias = "gelu_pytorch_tanh")]
    GeluNew,
}

impl Config {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// [`Error::Json`] for a missing field or an unknown activation, [`Error::Config`] for sizes that do not fit together.
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

    /// Columns of one head.
    #[must_use]
    pub const fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Where the text ends, by transformers' rule: the first `eos_token_id`, or position 0 if there is none. Configurations
    /// written before its pull request 24773 say 2, which is not the end token: there it is the first of the largest id.
    #[must_use]
    pub fn end_position(&self, ids: &[u32]) -> usize {
        let end = if self.eos_token_id == 2 { ids.iter().copied().max() } else { Some(self.eos_token_id) };
        ids.iter().position(|id| Some(*id) == end).unwrap_or(0)
    }

    pub(crate) const fn activation(&self) -> ActivationKind {
        match self.hidden_act {
            Activation::QuickGelu => ActivationKind::QuickGelu,
            Activation::Gelu => ActivationKind::Gelu,
            Activation::GeluNew => ActivationKind::GeluTanh,
        }
    }

    fn check(&self) -> Result<()> {
        let heads = self.num_attention_heads;
        let wrong = |name, got: usize, needs| Err(Error::Config { name, got: got.to_string(), needs });
        if heads == 0 || !self.hidden_size.is_multiple_of(heads) || self.hidden_size == 0 {
            return wrong("num_attention_heads", heads, "a divisor of hidden_size");
        }
        if self.intermediate_size == 0 {
            return wrong("intermediate_size", 0, "1 or more");
        }
        if !(0.0..=1.0).contains(&self.layer_norm_eps) {
            let (name, got) = ("layer_norm_eps", self.layer_norm_eps.to_string());
            return Err(Error::Config { name, got, needs: "0 to 1" });
        }
        Ok(())
    }
}

const fn default_positions() -> usize {
    77
}

const fn default_eps() -> f32 {
    1e-5
}

const fn default_eos() -> u32 {
    49407
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(extra: &str) -> Result<Config> {
        let sizes = r#""hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1"#;
        Config::from_json(&format!("{{{sizes}, {extra}}}"))
    }

    fn check_end(eos: u32, ids: &[u32], expected: usize) {
        let config = config(&format!(r#""num_attention_heads": 4, "eos_token_id": {eos}"#)).unwrap();
        assert_eq!(config.end_position(ids), expected, "eos {eos}, ids {ids:?}");
    }

    #[test]
    fn end_is_the_first_end_token() {
        check_end(9, &[8, 3, 9, 9], 2);
        check_end(9, &[9], 0);
        check_end(9, &[8, 30, 9, 31], 2);
    }

    #[test]
    fn end_is_the_start_without_an_end_token() {
        check_end(9, &[8, 3, 4], 0);
    }

    #[test]
    fn legacy_end_is_the_first_of_the_largest_id() {
        check_end(2, &[8, 3, 9, 9], 2);
        check_end(2, &[8, 2, 9, 1], 2);
    }

    #[test]
    fn unknown_fields_are_ignored_and_missing_ones_default() {
        let config = config(r#""num_attention_heads": 4, "projection_dim": 7"#).unwrap();
        assert_eq!((config.max_position_embeddings, config.eos_token_id), (77, 49407));
        assert_eq!(config.hidden_act, Activation::QuickGelu);
    }

    #[test]
    fn an_epsilon_that_makes_no_norm_is_refused() {
        let error = config(r#""num_attention_heads": 4, "layer_norm_eps": -1"#).unwrap_err();
        assert_eq!(error.to_string(), "layer_norm_eps is -1, should be 0 to 1");
    }

    #[test]
    fn heads_that_do_not_divide_are_refused() {
        for heads in [0, 3] {
            let error = config(&format!(r#""num_attention_heads": {heads}"#)).unwrap_err();
            assert!(error.to_string().contains(&format!("num_attention_heads is {heads}")), "{error}");
        }
    }

    #[test]
    fn unknown_activation_is_named() {
        let error = config(r#""num_attention_heads": 4, "hidden_act": "relu""#).unwrap_err().to_string();
        assert!(error.contains("relu") && error.contains("quick_gelu"), "{error}");
    }
}
