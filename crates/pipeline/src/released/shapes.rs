//! Names and shapes of the released checkpoints, written down from their architecture. Tests hold them to the published fingerprints.

use lighterage_checkpoint::Shape;

/// A list of tensors in the making.
#[derive(Debug, Default)]
pub(super) struct Shapes(pub(super) Vec<Shape>);

/// Columns of FLUX's residual stream, and of one of its heads.
const WIDTH: usize = 3072;
const HEAD: usize = 128;
/// The dictionary within the projector's.
pub(super) const PROJECTOR_PREFIX: &str = "image_proj.";
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

    /// The norms of q and k, as BFL names them.
    fn scales(&mut self, name: &str) {
        for norm in ["query_norm", "key_norm"] {
            self.add(format!("{name}.{norm}.scale"), &[HEAD]);
        }
    }
}

/// `FLUX.1-dev/transformer`.
pub(super) fn transformer() -> Shapes {
    let mut shapes = trunk(19, 38);
    shapes.linear("norm_out.linear", &[2 * WIDTH, WIDTH]);
    shapes.linear("proj_out", &[64, WIDTH]);
    shapes
}

/// `flux1-dev.safetensors`, where q, k and v are one linear, and in single blocks the MLP's columns too.
pub(super) fn transformer_bfl() -> Shapes {
    let mut shapes = Shapes::default();
    shapes.linear("img_in", &[WIDTH, 64]);
    shapes.linear("txt_in", &[WIDTH, T5_WIDTH]);
    for (name, inner) in [("time_in", 256), ("guidance_in", 256), ("vector_in", CLIP_WIDTH)] {
        shapes.linear(&format!("{name}.in_layer"), &[WIDTH, inner]);
        shapes.linear(&format!("{name}.out_layer"), &[WIDTH, WIDTH]);
    }
    for (block, side) in (0..19).flat_map(|block| ["img", "txt"].map(|side| (block, side))) {
        let name = format!("double_blocks.{block}.{side}");
        shapes.linear(&format!("{name}_mod.lin"), &[6 * WIDTH, WIDTH]);
        shapes.linear(&format!("{name}_attn.qkv"), &[3 * WIDTH, WIDTH]);
        shapes.linear(&format!("{name}_attn.proj"), &[WIDTH, WIDTH]);
        shapes.linear(&format!("{name}_mlp.0"), &[4 * WIDTH, WIDTH]);
        shapes.linear(&format!("{name}_mlp.2"), &[WIDTH, 4 * WIDTH]);
        shapes.scales(&format!("{name}_attn.norm"));
    }
    for name in (0..38).map(|block| format!("single_blocks.{block}")) {
        shapes.linear(&format!("{name}.modulation.lin"), &[3 * WIDTH, WIDTH]);
        shapes.linear(&format!("{name}.linear1"), &[7 * WIDTH, WIDTH]);
        shapes.linear(&format!("{name}.linear2"), &[WIDTH, 5 * WIDTH]);
        shapes.scales(&format!("{name}.norm"));
    }
    shapes.linear("final_layer.linear", &[64, WIDTH]);
    shapes.linear("final_layer.adaLN_modulation.1", &[2 * WIDTH, WIDTH]);
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

/// `image_proj_model.bin`: all in a dictionary within the dictionary.
pub(super) fn projector() -> Shapes {
    const INNER: usize = 1280;
    let mut shapes = Shapes::default();
    shapes.add("latents", &[1, 8, INNER]);
    shapes.linear("proj_in", &[INNER, 512]);
    shapes.linear("proj_out", &[T5_WIDTH, INNER]);
    shapes.linear("norm_out", &[T5_WIDTH]);
    for layer in (0..4).map(|layer| format!("layers.{layer}")) {
        for norm in ["0.norm1", "0.norm2", "1.0"] {
            shapes.linear(&format!("{layer}.{norm}"), &[INNER]);
        }
        for (name, extents) in [
            ("0.to_q", [INNER, INNER]),
            ("0.to_kv", [2 * INNER, INNER]),
            ("0.to_out", [INNER, INNER]),
            ("1.1", [4 * INNER, INNER]),
            ("1.3", [INNER, 4 * INNER]),
        ] {
            shapes.weight(&format!("{layer}.{name}"), &extents);
        }
    }
    shapes.0.iter_mut().for_each(|shape| shape.name.insert_str(0, PROJECTOR_PREFIX));
    shapes
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

/// `ae.safetensors`: the same, by `CompVis`' names. Its decoder counts levels from full size on, and its attention is of 1x1 convolutions.
pub(super) fn vae_bfl() -> Shapes {
    const PARTS: [(&str, &str); 13] = [
        ("encoder.down_blocks.", "encoder.down."),
        ("decoder.up_blocks.", "decoder.up."),
        ("mid_block.resnets.0", "mid.block_1"),
        ("mid_block.resnets.1", "mid.block_2"),
        ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
        ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
        ("mid_block.attentions.0.to_", "mid.attn_1."),
        (".resnets.", ".block."),
        ("downsamplers.0.conv", "downsample.conv"),
        ("upsamplers.0.conv", "upsample.conv"),
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
        ("decoder.up.0.", "decoder.up.~."),
    ];
    let mut shapes = vae();
    for Shape { name, extents } in &mut shapes.0 {
        for (diffusers, bfl) in PARTS {
            *name = name.replace(diffusers, bfl);
        }
        for (level, turned) in [("3", "0"), ("1", "#"), ("2", "1"), ("#", "2"), ("~", "3")] {
            *name = name.replace(&format!("decoder.up.{level}."), &format!("decoder.up.{turned}."));
        }
        if name.contains(".mid.attn_1.") && extents.len() == 2 {
            extents.extend([1, 1]);
        }
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
