//! The BFL layout means the same model, and its configuration can be read off its shapes.

use crate::common::{Loaded, Plain, bits, config, open, plain, weights, written};
use lighterage_checkpoint::Checkpoint;
use lighterage_dit::{Config, diffusers_layout};
use lighterage_shape::DType;

/// A diffusers checkpoint under BFL's names: stacked where BFL has one linear, the halves of the last modulation exchanged.
struct ToBfl<'a> {
    source: &'a Checkpoint,
    prefix: &'a str,
    out: Vec<Plain>,
}

impl ToBfl<'_> {
    /// Stacks tensors along their rows.
    fn stack(&mut self, name: &str, sources: &[String]) {
        let tensors: Vec<_> = sources.iter().map(|source| self.source.tensor(source).unwrap()).collect();
        let mut shape = tensors[0].shape().to_vec();
        shape[0] = tensors.iter().map(|tensor| tensor.shape()[0]).sum();
        let bytes = tensors.iter().flat_map(|tensor| tensor.bytes().to_vec()).collect();
        self.out.push(Plain {
            name: format!("{}{name}", self.prefix),
            dtype: tensors[0].dtype(),
            shape,
            bytes,
        });
    }

    /// Weight and bias of linears, stacked.
    fn linear(&mut self, name: &str, sources: &[String]) {
        for part in ["weight", "bias"] {
            let sources: Vec<_> = sources.iter().map(|source| format!("{source}.{part}")).collect();
            self.stack(&format!("{name}.{part}"), &sources);
        }
    }

    fn exchange_halves(&mut self, name: &str) {
        let tensor = self.out.iter_mut().find(|tensor| tensor.name.ends_with(name)).unwrap();
        let half = tensor.bytes.len() / 2;
        tensor.bytes.rotate_left(half);
    }

    fn double(&mut self, block: usize) {
        let (from, to) = (format!("transformer_blocks.{block}"), format!("double_blocks.{block}"));
        let sides = [
            ("img", ["to_q", "to_k", "to_v"], "to_out.0", "norm1", "ff", ["norm_q", "norm_k"]),
            (
                "txt",
                ["add_q_proj", "add_k_proj", "add_v_proj"],
                "to_add_out",
                "norm1_context",
                "ff_context",
                ["norm_added_q", "norm_added_k"],
            ),
        ];
        for (side, qkv, out, modulation, mlp, norms) in sides {
            self.linear(&format!("{to}.{side}_attn.qkv"), &qkv.map(|name| format!("{from}.attn.{name}")));
            self.linear(&format!("{to}.{side}_attn.proj"), &[format!("{from}.attn.{out}")]);
            self.linear(&format!("{to}.{side}_mod.lin"), &[format!("{from}.{modulation}.linear")]);
            self.linear(&format!("{to}.{side}_mlp.0"), &[format!("{from}.{mlp}.net.0.proj")]);
            self.linear(&format!("{to}.{side}_mlp.2"), &[format!("{from}.{mlp}.net.2")]);
            for (norm, name) in norms.iter().zip(["query_norm", "key_norm"]) {
                self.stack(
                    &format!("{to}.{side}_attn.norm.{name}.scale"),
                    &[format!("{from}.attn.{norm}.weight")],
                );
            }
        }
    }

    fn single(&mut self, block: usize) {
        let (from, to) = (format!("single_transformer_blocks.{block}"), format!("single_blocks.{block}"));
        let first = ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"].map(|name| format!("{from}.{name}"));
        self.linear(&format!("{to}.linear1"), &first);
        self.linear(&format!("{to}.linear2"), &[format!("{from}.proj_out")]);
        self.linear(&format!("{to}.modulation.lin"), &[format!("{from}.norm.linear")]);
        for (norm, name) in ["norm_q", "norm_k"].iter().zip(["query_norm", "key_norm"]) {
            self.stack(&format!("{to}.norm.{name}.scale"), &[format!("{from}.attn.{norm}.weight")]);
        }
    }

    fn rest(&mut self, config: &Config) {
        let embedders = [("timestep", "time_in"), ("guidance", "guidance_in"), ("text", "vector_in")];
        for (from, to) in
            embedders.into_iter().filter(|(from, _)| config.guidance_embeds || *from != "guidance")
        {
            for (from_layer, to_layer) in [("linear_1", "in_layer"), ("linear_2", "out_layer")] {
                let source = format!("time_text_embed.{from}_embedder.{from_layer}");
                self.linear(&format!("{to}.{to_layer}"), &[source]);
            }
        }
        for (from, to) in
            [("x_embedder", "img_in"), ("context_embedder", "txt_in"), ("proj_out", "final_layer.linear")]
        {
            self.linear(to, &[from.to_owned()]);
        }
        self.linear("final_layer.adaLN_modulation.1", &["norm_out.linear".to_owned()]);
        self.exchange_halves("final_layer.adaLN_modulation.1.weight");
        self.exchange_halves("final_layer.adaLN_modulation.1.bias");
    }
}

fn to_bfl(config: &Config, source: &Checkpoint, prefix: &str) -> Vec<Plain> {
    let mut bfl = ToBfl { source, prefix, out: Vec::new() };
    (0..config.num_layers).for_each(|block| bfl.double(block));
    (0..config.num_single_layers).for_each(|block| bfl.single(block));
    bfl.rest(config);
    bfl.out
}

fn check_layout(case: &str, prefix: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flux.safetensors");
    let bfl = written(&path, &to_bfl(&config(case), &weights(case), prefix));
    for dtype in [DType::F32, DType::Bf16] {
        let found = Loaded::new(config(case), &bfl, dtype, 2).sample(case);
        assert_eq!(
            bits(&found),
            bits(&Loaded::case(case, dtype, 2).sample(case)),
            "{case} {prefix:?} {dtype}"
        );
    }
}

#[test]
fn bfl_names_mean_the_same_model() {
    check_layout("flux-dev-tiny", "");
    check_layout("flux-schnell-tiny", "");
    check_layout("flux-controlled-tiny", "");
}

#[test]
fn prefixed_names_mean_the_same_model() {
    check_layout("flux-dev-tiny", "model.diffusion_model.");
}

/// There and back: every tensor of diffusers' file has its bytes again.
#[test]
fn bfl_layout_becomes_that_of_diffusers_again() {
    let folder = tempfile::tempdir().unwrap();
    for (case, prefix) in [
        ("flux-dev-tiny", ""),
        ("flux-schnell-tiny", ""),
        ("flux-controlled-tiny", ""),
        ("flux-guidance-30-tiny", "model.diffusion_model."),
    ] {
        let bfl =
            written(&folder.path().join("flux.safetensors"), &to_bfl(&config(case), &weights(case), prefix));
        let recipes = diffusers_layout(&bfl).unwrap();
        let expected = weights(case);
        assert_eq!(recipes.len(), expected.tensors().count(), "{case}");
        for (recipe, tensor) in recipes.iter().zip(expected.tensors()) {
            assert_eq!((recipe.name.as_str(), &recipe.shape[..]), (tensor.name(), tensor.shape()), "{case}");
            assert!(recipe.bytes(&bfl).unwrap() == tensor.bytes(), "{case}: {}", recipe.name);
        }
    }
}

#[test]
fn a_tensor_without_a_place_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flux.safetensors");
    let mut tensors = to_bfl(&config("flux-dev-tiny"), &weights("flux-dev-tiny"), "");
    let last = tensors.len() - 1;
    let odd = Plain { name: "vector_out.weight".to_owned(), ..tensors.swap_remove(last) };
    let lacks = diffusers_layout(&written(&path, &tensors)).unwrap_err().to_string();
    assert!(lacks.contains("final_layer.adaLN_modulation.1.bias"), "{lacks}");
    let mut tensors = to_bfl(&config("flux-dev-tiny"), &weights("flux-dev-tiny"), "");
    tensors.push(odd);
    let left = diffusers_layout(&written(&path, &tensors)).unwrap_err().to_string();
    assert!(left.contains("\"vector_out.weight\" is none of a FLUX transformer's"), "{left}");
}

/// A file of `rows x columns` zeros under each name.
fn shapes_only(path: &std::path::Path, shapes: &[(&str, &[usize])]) -> Checkpoint {
    let zeros = |(name, shape): &(&str, &[usize])| Plain {
        name: (*name).to_owned(),
        dtype: DType::Bf16,
        shape: shape.to_vec(),
        bytes: vec![0; 2 * shape.iter().product::<usize>()],
    };
    written(path, &shapes.iter().map(zeros).collect::<Vec<_>>())
}

#[test]
fn configuration_is_read_off_shapes() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = shapes_only(
        &folder.path().join("flux.safetensors"),
        &[
            ("img_in.weight", &[256, 64]),
            ("txt_in.weight", &[256, 48]),
            ("vector_in.in_layer.weight", &[256, 24]),
            ("guidance_in.in_layer.weight", &[256, 256]),
            ("double_blocks.0.img_mod.lin.weight", &[6, 1]),
            ("double_blocks.1.img_mod.lin.weight", &[6, 1]),
            ("double_blocks.0.img_attn.norm.query_norm.scale", &[128]),
            ("single_blocks.0.modulation.lin.weight", &[3, 1]),
            ("final_layer.linear.weight", &[32, 256]),
        ],
    );
    let expected = Config {
        in_channels: 64,
        out_channels: Some(32),
        num_layers: 2,
        num_single_layers: 1,
        attention_head_dim: 128,
        num_attention_heads: 2,
        joint_attention_dim: 48,
        pooled_projection_dim: 24,
        guidance_embeds: true,
        axes_dims_rope: [16, 56, 56],
        patch_size: 1,
        num_mode: None,
        conditioning_embedding_channels: None,
    };
    assert_eq!(Config::of(&checkpoint).unwrap(), expected);
}

#[test]
fn configuration_beside_the_file_goes_first() {
    let folder = tempfile::tempdir().unwrap();
    let case = "flux-schnell-tiny";
    let path = folder.path().join("model.safetensors");
    written(&path, &plain(&weights(case)));
    let text = Config::of(&open(&path)).unwrap_err().to_string();
    assert!(text.contains("axes_dims_rope") && text.contains("heads have 32 elements"), "{text}");
    std::fs::copy(lighterage_testkit::folder(case).join("config.json"), folder.path().join("config.json"))
        .unwrap();
    assert_eq!(Config::of(&open(&path)).unwrap(), config(case));
    assert_eq!(Config::of(&open(folder.path())).unwrap(), config(case));
}
