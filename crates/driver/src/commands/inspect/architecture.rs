use std::path::Path;

use lighterage_checkpoint::Checkpoint;

/// Fingerprints of released files (reference: flux-infiniteyou-spec, 13.1, after DiffSynth-Studio's list).
const RELEASED: [(&str, &str); 8] = [
    ("a29710fea6dddb0314663ee823598e50", "FLUX.1-dev transformer, BFL layout"),
    ("605c56eab23e9e2af863ad8f0813a25d", "FLUX.1-dev transformer, diffusers layout"),
    ("7f9583eb8ba86642abb9a21a4b2c9e16", "InfiniteYou InfuseNet, diffusers layout"),
    ("c07c0f04f5ff55e86b4e937c7a40d481", "InfiniteYou image projector, torch pickle"),
    ("94eefa3dac9cec93cb1ebaf1747d7b78", "CLIP-L text encoder"),
    ("22540b49eaedbc2f2784b2091a234c7c", "T5-XXL v1.1 encoder"),
    ("21ea55f476dfc4fd135587abb59dfe5d", "FLUX VAE, BFL layout"),
    ("1aafa3cc91716fb6b300cc1cd51b85a3", "FLUX VAE, diffusers layout"),
];

/// What names give away, the most telling first: a part of one tensor's name, and what has such a tensor.
const MARKS: [(&str, &str); 10] = [
    ("controlnet_blocks.0.", "FLUX ControlNet or InfuseNet, diffusers layout"),
    ("double_blocks.0.", "FLUX transformer, BFL layout"),
    ("transformer_blocks.0.attn.add_q_proj.", "FLUX transformer, diffusers layout"),
    ("SelfAttention.relative_attention_bias", "T5 encoder"),
    ("embeddings.token_embedding.", "CLIP text encoder"),
    ("decoder.up_blocks.0.", "VAE, diffusers layout"),
    ("decoder.up.0.", "VAE, BFL layout"),
    ("latents", "image projector (resampler)"),
    ("image_proj.latents", "image projector (resampler), torch pickle"),
    ("input_layer.0.weight", "ArcFace embedding network"),
];

/// A sentence: the released file if the fingerprint is a known one, else what the names say; and the class that `config.json` names.
pub(super) fn of(checkpoint: &Checkpoint, path: &Path) -> String {
    let fingerprint = checkpoint.fingerprint();
    let released = RELEASED.iter().find(|(known, _)| *known == fingerprint).map(|(_, what)| *what);
    let what = released.or_else(|| marked(checkpoint)).unwrap_or("not known");
    match class(path) {
        Some(class) => format!("{what} ({class})"),
        None => what.to_owned(),
    }
}

fn marked(checkpoint: &Checkpoint) -> Option<&'static str> {
    let has = |mark: &str| {
        checkpoint
            .tensors()
            .any(|tensor| tensor.name() == mark || (mark.len() > 8 && tensor.name().contains(mark)))
    };
    MARKS.iter().find(|(mark, _)| has(mark)).map(|(_, what)| *what)
}

/// `_class_name` (diffusers) or `architectures` (transformers) of the folder's `config.json`, if it can be read.
fn class(path: &Path) -> Option<String> {
    let text = std::fs::read(path.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let class = config.get("_class_name").or_else(|| config.get("architectures")?.get(0))?;
    Some(class.as_str()?.to_owned())
}
