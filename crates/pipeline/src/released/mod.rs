//! The checkpoints of FLUX.1-dev and InfiniteYou as they were published: names and shapes of all tensors, without their values.

mod shapes;

use std::fmt;

use lighterage_checkpoint::Shape;

/// A published checkpoint. Names and shapes of its tensors tell which it is, whatever its file is called.
///
/// ```
/// use lighterage_pipeline::Released;
/// let known = Released::of("a29710fea6dddb0314663ee823598e50").expect("flux1-dev.safetensors");
/// assert_eq!((known, known.shapes().len()), (Released::TransformerBfl, 780));
/// assert_eq!(known.to_string(), "FLUX.1-dev transformer, BFL layout");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Released {
    /// `flux1-dev.safetensors`.
    TransformerBfl,
    /// `FLUX.1-dev/transformer`.
    Transformer,
    /// `InfuseNetModel`, of both versions.
    InfuseNet,
    /// `image_proj_model.bin`, of both versions.
    Projector,
    /// `FLUX.1-dev/text_encoder`.
    Clip,
    /// `FLUX.1-dev/text_encoder_2`.
    T5,
    /// `ae.safetensors`.
    AutoencoderBfl,
    /// `FLUX.1-dev/vae`.
    Autoencoder,
}

impl Released {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::TransformerBfl,
        Self::Transformer,
        Self::InfuseNet,
        Self::Projector,
        Self::Clip,
        Self::T5,
        Self::AutoencoderBfl,
        Self::Autoencoder,
    ];

    /// The one with this [fingerprint](lighterage_checkpoint::fingerprint).
    #[must_use]
    pub fn of(fingerprint: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|released| released.fingerprint() == fingerprint)
    }

    /// What names and shapes come to, as DiffSynth-Studio lists it.
    #[must_use]
    pub const fn fingerprint(self) -> &'static str {
        match self {
            Self::TransformerBfl => "a29710fea6dddb0314663ee823598e50",
            Self::Transformer => "605c56eab23e9e2af863ad8f0813a25d",
            Self::InfuseNet => "7f9583eb8ba86642abb9a21a4b2c9e16",
            Self::Projector => "c07c0f04f5ff55e86b4e937c7a40d481",
            Self::Clip => "94eefa3dac9cec93cb1ebaf1747d7b78",
            Self::T5 => "22540b49eaedbc2f2784b2091a234c7c",
            Self::AutoencoderBfl => "21ea55f476dfc4fd135587abb59dfe5d",
            Self::Autoencoder => "1aafa3cc91716fb6b300cc1cd51b85a3",
        }
    }

    /// What it is, in a few words.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::TransformerBfl => "FLUX.1-dev transformer, BFL layout",
            Self::Transformer => "FLUX.1-dev transformer, diffusers layout",
            Self::InfuseNet => "InfiniteYou InfuseNet, diffusers layout",
            Self::Projector => "InfiniteYou image projector, torch pickle",
            Self::Clip => "CLIP-L text encoder",
            Self::T5 => "T5-XXL v1.1 encoder",
            Self::AutoencoderBfl => "FLUX VAE, BFL layout",
            Self::Autoencoder => "FLUX VAE, diffusers layout",
        }
    }

    /// Its tensors. Those of the projector have the name of the dictionary that they are in before their own.
    #[must_use]
    pub fn shapes(self) -> Vec<Shape> {
        match self {
            Self::TransformerBfl => shapes::transformer_bfl(),
            Self::Transformer => shapes::transformer(),
            Self::InfuseNet => shapes::infusenet(),
            Self::Projector => shapes::projector(),
            Self::Clip => shapes::clip(),
            Self::T5 => shapes::t5(),
            Self::AutoencoderBfl => shapes::vae_bfl(),
            Self::Autoencoder => shapes::vae(),
        }
        .0
    }
}

impl fmt::Display for Released {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.title())
    }
}

#[cfg(test)]
mod tests {
    use lighterage_checkpoint::{Checkpoint, Recipe, fingerprint, grouped_fingerprint};
    use lighterage_shape::DType;

    use super::*;

    #[test]
    fn shapes_are_those_of_the_published_files() {
        for released in Released::ALL {
            let shapes = released.shapes();
            let list = || shapes.iter().map(|shape| (shape.name.as_str(), &shape.extents[..]));
            let found = match released {
                Released::Projector => {
                    grouped_fingerprint(list(), &[shapes::PROJECTOR_PREFIX.trim_end_matches('.')])
                }
                _ => fingerprint(list()),
            };
            assert_eq!(found, released.fingerprint(), "{released}");
        }
    }

    /// What `convert` makes of the published files of Black Forest Labs is exactly what diffusers published, by name and shape.
    #[test]
    fn the_layouts_of_bfl_become_those_of_diffusers() {
        let checkpoint =
            |released: Released| Checkpoint::of_shapes("built-in", DType::Bf16, &released.shapes()).unwrap();
        let found = |recipes: Vec<Recipe>| {
            fingerprint(recipes.iter().map(|recipe| (recipe.name.as_str(), &recipe.shape[..])))
        };
        let transformer = lighterage_dit::diffusers_layout(&checkpoint(Released::TransformerBfl)).unwrap();
        assert_eq!(found(transformer), Released::Transformer.fingerprint());
        let autoencoder = lighterage_vae::diffusers_layout(&checkpoint(Released::AutoencoderBfl));
        assert_eq!(found(autoencoder), Released::Autoencoder.fingerprint());
    }

    /// Counted by the specification of the published files.
    #[test]
    fn parameters_are_those_of_the_published_files() {
        let parameters = Released::ALL.map(|released| {
            released.shapes().iter().map(|shape| shape.extents.iter().product::<usize>()).sum::<usize>()
        });
        let expected = [
            11_901_408_320,
            11_901_408_320,
            2_952_654_336,
            84_595_968,
            123_060_480,
            4_762_310_656,
            83_819_683,
            83_819_683,
        ];
        assert_eq!(parameters, expected);
    }
}
