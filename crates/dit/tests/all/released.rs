//! The released models at their full size: names and shapes of 24 GB without the bytes. The files are sparse (a header and a length), and the device only
//! counts, so nothing of that size is ever read, written or allocated.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use crate::common::{open, simulated, upload};
use lighterage_checkpoint::Checkpoint;
use lighterage_dit::{Conditioning, Config, InfuseNet, Rope, StepInputs, Timesteps, Transformer};
use lighterage_pager::{Pager, TensorSpec, Units};
use lighterage_shape::DType;

const WIDTH: usize = 3072;
const MLP: usize = 4 * WIDTH;
const HEAD: usize = 128;

type Shapes = Vec<(String, Vec<usize>)>;

fn linear(shapes: &mut Shapes, name: &str, out: usize, inner: usize) {
    shapes.push((format!("{name}.weight"), vec![out, inner]));
    shapes.push((format!("{name}.bias"), vec![out]));
}

fn vector(shapes: &mut Shapes, name: &str) {
    shapes.push((name.to_owned(), vec![HEAD]));
}

/// What `flux1-dev.safetensors` holds.
fn bfl() -> Shapes {
    let mut shapes = Shapes::new();
    let all = &mut shapes;
    linear(all, "img_in", WIDTH, 64);
    linear(all, "txt_in", WIDTH, 4096);
    for (name, inner) in [("time_in", 256), ("guidance_in", 256), ("vector_in", 768)] {
        linear(all, &format!("{name}.in_layer"), WIDTH, inner);
        linear(all, &format!("{name}.out_layer"), WIDTH, WIDTH);
    }
    for (block, side) in (0..19).flat_map(|block| ["img", "txt"].map(|side| (block, side))) {
        let name = format!("double_blocks.{block}.{side}");
        linear(all, &format!("{name}_mod.lin"), 6 * WIDTH, WIDTH);
        linear(all, &format!("{name}_attn.qkv"), 3 * WIDTH, WIDTH);
        linear(all, &format!("{name}_attn.proj"), WIDTH, WIDTH);
        vector(all, &format!("{name}_attn.norm.query_norm.scale"));
        vector(all, &format!("{name}_attn.norm.key_norm.scale"));
        linear(all, &format!("{name}_mlp.0"), MLP, WIDTH);
        linear(all, &format!("{name}_mlp.2"), WIDTH, MLP);
    }
    for block in 0..38 {
        let name = format!("single_blocks.{block}");
        linear(all, &format!("{name}.modulation.lin"), 3 * WIDTH, WIDTH);
        linear(all, &format!("{name}.linear1"), 3 * WIDTH + MLP, WIDTH);
        linear(all, &format!("{name}.linear2"), WIDTH, WIDTH + MLP);
        vector(all, &format!("{name}.norm.query_norm.scale"));
        vector(all, &format!("{name}.norm.key_norm.scale"));
    }
    linear(all, "final_layer.linear", 64, WIDTH);
    linear(all, "final_layer.adaLN_modulation.1", 2 * WIDTH, WIDTH);
    shapes
}

/// What the trunk of a diffusers model with so many blocks holds.
fn diffusers(doubles: usize, singles: usize) -> Shapes {
    let mut shapes = Shapes::new();
    let all = &mut shapes;
    linear(all, "x_embedder", WIDTH, 64);
    linear(all, "context_embedder", WIDTH, 4096);
    for (name, inner) in [("timestep", 256), ("guidance", 256), ("text", 768)] {
        linear(all, &format!("time_text_embed.{name}_embedder.linear_1"), WIDTH, inner);
        linear(all, &format!("time_text_embed.{name}_embedder.linear_2"), WIDTH, WIDTH);
    }
    for block in 0..doubles {
        let name = format!("transformer_blocks.{block}");
        for modulation in ["norm1", "norm1_context"] {
            linear(all, &format!("{name}.{modulation}.linear"), 6 * WIDTH, WIDTH);
        }
        for projection in
            ["to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out"]
        {
            linear(all, &format!("{name}.attn.{projection}"), WIDTH, WIDTH);
        }
        for norm in ["norm_q", "norm_k", "norm_added_q", "norm_added_k"] {
            vector(all, &format!("{name}.attn.{norm}.weight"));
        }
        for mlp in ["ff", "ff_context"] {
            linear(all, &format!("{name}.{mlp}.net.0.proj"), MLP, WIDTH);
            linear(all, &format!("{name}.{mlp}.net.2"), WIDTH, MLP);
        }
    }
    for block in 0..singles {
        let name = format!("single_transformer_blocks.{block}");
        linear(all, &format!("{name}.norm.linear"), 3 * WIDTH, WIDTH);
        for projection in ["to_q", "to_k", "to_v"] {
            linear(all, &format!("{name}.attn.{projection}"), WIDTH, WIDTH);
        }
        for norm in ["norm_q", "norm_k"] {
            vector(all, &format!("{name}.attn.{norm}.weight"));
        }
        linear(all, &format!("{name}.proj_mlp"), MLP, WIDTH);
        linear(all, &format!("{name}.proj_out"), WIDTH, WIDTH + MLP);
    }
    shapes
}

fn diffusers_transformer() -> Shapes {
    let mut shapes = diffusers(19, 38);
    linear(&mut shapes, "norm_out.linear", 2 * WIDTH, WIDTH);
    linear(&mut shapes, "proj_out", 64, WIDTH);
    shapes
}

fn infusenet() -> Shapes {
    let mut shapes = diffusers(4, 10);
    linear(&mut shapes, "controlnet_x_embedder", WIDTH, 64);
    for (list, blocks) in [("controlnet_blocks", 4), ("controlnet_single_blocks", 10)] {
        (0..blocks).for_each(|block| linear(&mut shapes, &format!("{list}.{block}"), WIDTH, WIDTH));
    }
    shapes
}

/// A bf16 checkpoint of these shapes: a header, then a hole.
fn sparse(path: &Path, shapes: &Shapes) -> Checkpoint {
    let mut header = String::from("{");
    let mut end = 0_u64;
    for (name, shape) in shapes {
        let begin = end;
        end += 2 * shape.iter().product::<usize>() as u64;
        let comma = if begin == 0 { "" } else { "," };
        write!(
            header,
            "{comma}\"{name}\":{{\"dtype\":\"BF16\",\"shape\":{shape:?},\"data_offsets\":[{begin},{end}]}}"
        )
        .unwrap();
    }
    header.push('}');
    let padded = header.len().next_multiple_of(8);
    header.extend(std::iter::repeat_n(' ', padded - header.len()));
    let mut file = File::create(path).unwrap();
    file.write_all(&(padded as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + padded as u64 + end).unwrap();
    open(path)
}

/// The released configuration, as the shapes say.
fn released(doubles: usize, singles: usize, out_channels: Option<usize>) -> Config {
    Config {
        in_channels: 64,
        out_channels,
        num_layers: doubles,
        num_single_layers: singles,
        attention_head_dim: HEAD,
        num_attention_heads: 24,
        joint_attention_dim: 4096,
        pooled_projection_dim: 768,
        guidance_embeds: true,
        axes_dims_rope: [16, 56, 56],
        patch_size: 1,
        num_mode: None,
        conditioning_embedding_channels: None,
    }
}

fn unit_bytes(units: &Units) -> Vec<(String, u64)> {
    units.iter().map(|(id, unit)| (unit.name.clone(), units.bytes(id))).collect()
}

/// Elements of all tensors of all units.
fn parameters(units: &Units) -> usize {
    units.iter().flat_map(|(_, unit)| &unit.tensors).map(elements).sum()
}

fn elements(tensor: &TensorSpec) -> usize {
    tensor.shape().iter().product()
}

/// The fingerprints are published: MD5 of all names and shapes, as DiffSynth-Studio identifies checkpoints by them.
#[test]
fn every_tensor_of_the_released_transformer_is_in_a_unit_in_both_layouts() {
    let folder = tempfile::tempdir().unwrap();
    let mut found = Vec::new();
    for (file, shapes, fingerprint) in [
        ("bfl.safetensors", bfl(), "a29710fea6dddb0314663ee823598e50"),
        ("diffusers.safetensors", diffusers_transformer(), "605c56eab23e9e2af863ad8f0813a25d"),
    ] {
        let checkpoint = sparse(&folder.path().join(file), &shapes);
        assert_eq!(checkpoint.fingerprint(), fingerprint, "{file}");
        let config = Config::of(&checkpoint).unwrap();
        assert_eq!(config, released(19, 38, Some(64)), "{file}");
        let mut units = Units::default();
        Transformer::new(config, &checkpoint, DType::Bf16, &mut units).unwrap();
        assert_eq!(parameters(&units), 11_901_408_320, "{file}");
        found.push(unit_bytes(&units));
    }
    assert_eq!(found[0], found[1]);
}

#[test]
fn every_tensor_of_the_released_infusenet_is_in_a_unit() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = sparse(&folder.path().join("infusenet.safetensors"), &infusenet());
    assert_eq!(checkpoint.fingerprint(), "7f9583eb8ba86642abb9a21a4b2c9e16");
    let config = Config::of(&checkpoint).unwrap();
    assert_eq!(config, released(4, 10, None));
    let mut units = Units::default();
    InfuseNet::new(config, &checkpoint, DType::Bf16, &mut units).unwrap();
    assert_eq!(parameters(&units), 2_952_654_336);
}

/// One step at 1280 x 720 (3600 image tokens, 512 text tokens) on a device that counts.
#[test]
fn a_full_size_step_costs_what_the_arithmetic_says() {
    const TEXT: usize = 512;
    const ROWS: usize = 45;
    const COLUMNS: usize = 80;
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = sparse(&folder.path().join("flux.safetensors"), &bfl());
    let queue = simulated(2 << 20);
    let mut units = Units::default();
    let model =
        Transformer::new(Config::of(&checkpoint).unwrap(), &checkpoint, DType::Bf16, &mut units).unwrap();
    let units = Arc::new(units);
    let [hoist, steps] = [0, 1].map(|_| Pager::resident(queue.stream(), Arc::clone(&units)).unwrap());
    let tensor = |rows, columns| queue.tensor(DType::Bf16, &[rows, columns], "test").unwrap();
    let pooled = upload(&queue, DType::Bf16, &[0.0; 768], &[768]);
    let conditioning = Conditioning {
        timesteps: Timesteps::Rounded(&[1.0; 50]),
        guidance: Some(3.5),
        pooled: pooled.view(),
    };
    let held = queue.pool().statistics().allocated_bytes;
    let modulations = model.condition(&queue, &hoist, &conditioning).unwrap();
    // 1,056,768 values of 2 bytes for each of 50 steps, and for the present one.
    assert_eq!(queue.pool().statistics().allocated_bytes - held, 51 * 1_056_768 * 2);
    modulations.select(&queue, 49).unwrap();
    let text = model.embed_text(&queue, &hoist, tensor(TEXT, 4096).view()).unwrap();
    let (latents, rope) =
        (tensor(ROWS * COLUMNS, 64), Rope::grid(&queue, model.config(), TEXT, ROWS, COLUMNS));

    let before = queue.device().backend().counters();
    let inputs = StepInputs {
        latents: latents.view(),
        text: text.view(),
        modulations: &modulations,
        rope: &rope.unwrap(),
        residuals: None,
    };
    model.step(&queue, &steps, &inputs).unwrap();
    let after = queue.device().backend().counters();
    assert_eq!(after.launches - before.launches, 1 + 19 * 12 + 38 * 6 + 2);
    // Products 53.09, attention 11.84, image embedder and output 0.003 TFLOP; norms, rotations and softmax are below 1 % of that.
    let teraflops = (after.flops - before.flops) / 1e12;
    assert!((64.9..65.6).contains(&teraflops), "{teraflops} TFLOP");
    // 6.50 of the 23.80 GB are modulation and 0.09 GB embedders that a step does not read.
    let elements: usize = steps.trace().iter().flat_map(|unit| &units.get(*unit).tensors).map(elements).sum();
    assert_eq!(2 * elements, 23_802_816_640 - 2 * 3_247_448_064 - (90_095_616 - 2 * 65 * WIDTH));
}
