use std::path::Path;

use lighterage_checkpoint::Checkpoint;
use lighterage_pipeline::Released;

/// What a run reads a checkpoint as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Transformer,
    InfuseNet,
    Projector,
    TextEncoder,
    Autoencoder,
}

/// What a checkpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Architecture {
    /// The released one, if names and shapes are exactly its.
    pub(super) released: Option<Released>,
    /// In words: the released one, else what the names say.
    pub(super) what: &'static str,
    pub(super) role: Option<Role>,
}

/// What names give away, the most telling first: a part of one tensor's name, and what has such a tensor.
const MARKS: [(&str, &str, Option<Role>); 10] = [
    ("controlnet_blocks.0.", "FLUX ControlNet or InfuseNet, diffusers layout", Some(Role::InfuseNet)),
    ("double_blocks.0.", "FLUX transformer, BFL layout", Some(Role::Transformer)),
    ("transformer_blocks.0.attn.add_q_proj.", "FLUX transformer, diffusers layout", Some(Role::Transformer)),
    ("SelfAttention.relative_attention_bias", "T5 encoder", Some(Role::TextEncoder)),
    ("embeddings.token_embedding.", "CLIP text encoder", Some(Role::TextEncoder)),
    ("decoder.up_blocks.0.", "VAE, diffusers layout", Some(Role::Autoencoder)),
    ("decoder.up.0.", "VAE, BFL layout", Some(Role::Autoencoder)),
    ("latents", "image projector (resampler)", Some(Role::Projector)),
    ("image_proj.latents", "image projector (resampler), torch pickle", Some(Role::Projector)),
    ("input_layer.0.weight", "ArcFace embedding network", None),
];

impl Architecture {
    pub(super) fn of(checkpoint: &Checkpoint) -> Self {
        let released = Released::of(&checkpoint.fingerprint());
        let (what, role) = marked(checkpoint).unwrap_or(("not known", None));
        Self { released, what: released.map_or(what, Released::title), role }
    }

    /// A sentence, with the class that the `config.json` of its folder names.
    pub(super) fn sentence(&self, path: &Path) -> String {
        match class(path) {
            Some(class) => format!("{} ({class})", self.what),
            None => self.what.to_owned(),
        }
    }
}

fn marked(checkpoint: &Checkpoint) -> Option<(&'static str, Option<Role>)> {
    let has = |mark: &str| {
        checkpoint
            .tensors()
            .any(|tensor| tensor.name() == mark || (mark.len() > 8 && tensor.name().contains(mark)))
    };
    MARKS.iter().find(|(mark, ..)| has(mark)).map(|(_, what, role)| (*what, *role))
}

/// `_class_name` (diffusers) or `architectures` (transformers) of the folder's `config.json`, if it can be read.
fn class(path: &Path) -> Option<String> {
    let text = std::fs::read(path.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let class = config.get("_class_name").or_else(|| config.get("architectures")?.get(0))?;
    Some(class.as_str()?.to_owned())
}
