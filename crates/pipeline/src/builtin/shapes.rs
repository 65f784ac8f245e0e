//! Names and shapes of the released checkpoints, in diffusers' layout, written down from their architecture. Tests hold them to the published fingerprints.

use lighterage_checkpoint::Shape;

/// A list of tensors in the making.
#[derive(Debug, Default)]
pub(super) struct Shapes(pub(super) Vec<Shape>);

/// Columns of FLUX's residual stream, and of one of its heads.
const WIDTH: usize = 3072;
const HEAD: usize = 128;
/// Columns of T5's states and CLIP's pooled vector.
const T5_WIDTH: usize = 4096;
const CLIP_WIDTH: usize = 768;

impl Shapes {
    fn add(&mut self, name: impl Into<String>, extents: &[usize]) {
        self.0.push(Shape { name: name.into(), extents: extents.to_vec() });
    }

    fn weight(&mut self, name: &str, extents: &[usize]) {
        self.add(format!("{name}.weight"), extents);
    }

    /// A weight, and a bias as long as its first extent.
    fn linear(&mut self, name: &str, extents: &[usize]) {
        self.weight(name, extents);
        self.add(format!("{name}.bias"), &extents[..1]);
    }
}

/// `FLUX.1-dev/transformer`.
pub(super) fn transformer() -> Shapes {
    let mut shapes = trunk(19, 38);
    shapes.linear("norm_out.linear", &[2 * WIDTH, WIDTH]);
    shapes.linear("proj_out", &[64, WIDTH]);
    shapes
}

/// `InfuseNetModel` of InfiniteYou, both versions.
pub(super) fn infusenet() -> Shapes {
    let mut shapes = trunk(4, 10);
    shapes.linear("controlnet_x_embedder", &[WIDTH, 64]);
    for (list, blocks) in [("controlnet_blocks", 4), ("controlnet_single_blocks", 10)] {
        (0..blocks).for_each(|block| shapes.linear(&format!("{list}.{block}"), &[WIDTH, WIDTH]));
    }
    shapes
}

fn trunk(doubles: usize, singles: usize) -> Shapes {
    let mut shapes = Shapes::default();
    shapes.linear("x_embedder", &[WIDTH, 64]);
    shapes.linear("context_embedder", &[WIDTH, T5_WIDTH]);
    for (name, inner) in [("timestep", 256), ("guidance", 256), ("text", CLIP_WIDTH)] {
        shapes.linear(&format!("time_text_embed.{name}_embedder.linear_1"), &[WIDTH, inner]);
        shapes.linear(&format!("time_text_embed.{name}_embedder.linear_2"), &[WIDTH, WIDTH]);
    }
    (0..doubles).for_each(|block| double_block(&mut shapes, &format!("transformer_blocks.{block}")));
    (0..singles).for_each(|block| single_block(&mut shapes, &format!("single_transformer_blocks.{block}")));
    shapes
}

fn double_block(shapes: &mut Shapes, name: &str) {
    for modulation in ["norm1", "norm1_context"] {
        shapes.linear(&format!("{name}.{modulation}.linear"), &[6 * WIDTH, WIDTH]);
    }
    let projections =
        ["to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out"];
    for projection in projections {
        shapes.linear(&format!("{name}.attn.{projection}"), &[WIDTH, WIDTH]);
    }
    for norm in ["norm_q", "norm_k", "norm_added_q", "norm_added_k"] {
        shapes.weight(&format!("{name}.attn.{norm}"), &[HEAD]);
    }
    for mlp in ["ff", "ff_context"] {
        shapes.linear(&format!("{name}.{mlp}.net.0.proj"), &[4 * WIDTH, WIDTH]);
        shapes.linear(&format!("{name}.{mlp}.net.2"), &[WIDTH, 4 * WIDTH]);
    }
}

fn single_block(shapes: &mut Shapes, name: &str) {
    shapes.linear(&format!("{name}.norm.linear"), &[3 * WIDTH, WIDTH]);
    for projection in ["to_q", "to_k", "to_v"] {
        shapes.linear(&format!("{name}.attn.{projection}"), &[WIDTH, WIDTH]);
    }
    for norm in ["norm_q", "norm_k"] {
        shapes.weight(&format!("{name}.attn.{norm}"), &[HEAD]);
    }
    shapes.linear(&format!("{name}.proj_mlp"), &[4 * WIDTH, WIDTH]);
    shapes.linear(&format!("{name}.proj_out"), &[WIDTH, 5 * WIDTH]);
}

/// The encoder of T5 1.1 XXL.
pub(super) fn t5() -> Shapes {
    const INNER: usize = 10_240;
    let mut shapes = Shapes::default();
    shapes.weight("shared", &[32_128, T5_WIDTH]);
    shapes.weight("encoder.block.0.layer.0.SelfAttention.relative_attention_bias", &[32, 64]);
    for block in 0..24 {
        let name = format!("encoder.block.{block}");
        for projection in ["q", "k", "v", "o"] {
            shapes.weight(&format!("{name}.layer.0.SelfAttention.{projection}"), &[T5_WIDTH, T5_WIDTH]);
        }
        for half in ["wi_0", "wi_1"] {
            shapes.weight(&format!("{name}.layer.1.DenseReluDense.{half}"), &[INNER, T5_WIDTH]);
        }
        shapes.weight(&format!("{name}.layer.1.DenseReluDense.wo"), &[T5_WIDTH, INNER]);
        (0..2).for_each(|layer| shapes.weight(&format!("{name}.layer.{layer}.layer_norm"), &[T5_WIDTH]));
    }
    shapes.weight("encoder.final_layer_norm", &[T5_WIDTH]);
    shapes
}

/// CLIP's text encoder, large.
pub(super) fn clip() -> Shapes {
    let mut shapes = Shapes::default();
    shapes.weight("text_model.embeddings.token_embedding", &[49_408, CLIP_WIDTH]);
    shapes.weight("text_model.embeddings.position_embedding", &[77, CLIP_WIDTH]);
    for layer in 0..12 {
        let name = format!("text_model.encoder.layers.{layer}");
        for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            shapes.linear(&format!("{name}.self_attn.{projection}"), &[CLIP_WIDTH, CLIP_WIDTH]);
        }
        shapes.linear(&format!("{name}.mlp.fc1"), &[4 * CLIP_WIDTH, CLIP_WIDTH]);
        shapes.linear(&format!("{name}.mlp.fc2"), &[CLIP_WIDTH, 4 * CLIP_WIDTH]);
        (1..=2).for_each(|norm| shapes.linear(&format!("{name}.layer_norm{norm}"), &[CLIP_WIDTH]));
    }
    shapes.linear("text_model.final_layer_norm", &[CLIP_WIDTH]);
    shapes
}

/// FLUX's autoencoder.
pub(super) fn vae() -> Shapes {
    const CHANNELS: [usize; 4] = [128, 256, 512, 512];
    let mut shapes = Shapes::default();
    let convolution = |shapes: &mut Shapes, name: &str, out, inner| {
        shapes.linear(name, &[out, inner, 3, 3]);
    };
    convolution(&mut shapes, "encoder.conv_in", CHANNELS[0], 3);
    convolution(&mut shapes, "decoder.conv_in", CHANNELS[3], 16);
    let mut inner = CHANNELS[0];
    for (level, out) in CHANNELS.into_iter().enumerate() {
        let name = format!("encoder.down_blocks.{level}");
        for block in 0..2 {
            resnet(&mut shapes, &format!("{name}.resnets.{block}"), out, inner);
            inner = out;
        }
        if level < 3 {
            convolution(&mut shapes, &format!("{name}.downsamplers.0.conv"), out, out);
        }
    }
    for (level, out) in CHANNELS.into_iter().rev().enumerate() {
        let name = format!("decoder.up_blocks.{level}");
        for block in 0..3 {
            resnet(&mut shapes, &format!("{name}.resnets.{block}"), out, inner);
            inner = out;
        }
        if level < 3 {
            convolution(&mut shapes, &format!("{name}.upsamplers.0.conv"), out, out);
        }
    }
    for (side, last, out) in [("encoder", CHANNELS[3], 32), ("decoder", CHANNELS[0], 3)] {
        middle(&mut shapes, &format!("{side}.mid_block"), CHANNELS[3]);
        shapes.linear(&format!("{side}.conv_norm_out"), &[last]);
        convolution(&mut shapes, &format!("{side}.conv_out"), out, last);
    }
    shapes
}

fn resnet(shapes: &mut Shapes, name: &str, out: usize, inner: usize) {
    shapes.linear(&format!("{name}.norm1"), &[inner]);
    shapes.linear(&format!("{name}.conv1"), &[out, inner, 3, 3]);
    shapes.linear(&format!("{name}.norm2"), &[out]);
    shapes.linear(&format!("{name}.conv2"), &[out, out, 3, 3]);
    if out != inner {
        shapes.linear(&format!("{name}.conv_shortcut"), &[out, inner, 1, 1]);
    }
}

fn middle(shapes: &mut Shapes, name: &str, channels: usize) {
    (0..2).for_each(|block| resnet(shapes, &format!("{name}.resnets.{block}"), channels, channels));
    shapes.linear(&format!("{name}.attentions.0.group_norm"), &[channels]);
    for projection in ["to_q", "to_k", "to_v", "to_out.0"] {
        shapes.linear(&format!("{name}.attentions.0.{projection}"), &[channels, channels]);
    }
}

#[cfg(test)]
mod tests {
    use lighterage_checkpoint::fingerprint;

    use super::*;

    #[track_caller]
    fn check(shapes: &Shapes, expected: &str) {
        let found = fingerprint(shapes.0.iter().map(|shape| (shape.name.as_str(), &shape.extents[..])));
        assert_eq!(found, expected);
    }

    #[test]
    fn shapes_are_those_of_the_published_files() {
        check(&transformer(), "605c56eab23e9e2af863ad8f0813a25d");
        check(&infusenet(), "7f9583eb8ba86642abb9a21a4b2c9e16");
        check(&t5(), "22540b49eaedbc2f2784b2091a234c7c");
        check(&clip(), "94eefa3dac9cec93cb1ebaf1747d7b78");
        check(&vae(), "1aafa3cc91716fb6b300cc1cd51b85a3");
    }
}
