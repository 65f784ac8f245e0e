//! The published checkpoints at their full size, as far as names and shapes go: files whose values are holes, which take no disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use lighterage_pipeline::Released;

use crate::{Scratch, golden, lighterage, repository};

/// A safetensors file with the header of that checkpoint.
fn safetensors(path: &Path, released: Released, dtype: &str, bytes: usize) {
    let (mut header, mut end) = (BTreeMap::new(), 0);
    for shape in released.shapes() {
        let start = end;
        end += bytes * shape.extents.iter().product::<usize>();
        let entry =
            serde_json::json!({ "dtype": dtype, "shape": shape.extents, "data_offsets": [start, end] });
        header.insert(shape.name, entry);
    }
    let mut text = serde_json::to_vec(&header).unwrap();
    text.resize(text.len().next_multiple_of(8), b' ');
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = File::create(path).unwrap();
    file.write_all(&(text.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&text).unwrap();
    file.set_len((8 + text.len() + end) as u64).unwrap();
}

/// A string of a pickle (protocol 2).
fn text(value: &str) -> Vec<u8> {
    [b"X", &u32::try_from(value.len()).unwrap().to_le_bytes()[..], value.as_bytes()].concat()
}

fn tuple(items: &[usize]) -> Vec<u8> {
    let integer = |item: &usize| [b"J", &u32::try_from(*item).unwrap().to_le_bytes()[..]].concat();
    [b"(", &items.iter().flat_map(integer).collect::<Vec<u8>>()[..], b"t"].concat()
}

/// `_rebuild_tensor_v2` of a tensor of f32 at the start of storage 0.
fn tensor(extents: &[usize], storage: usize) -> Vec<u8> {
    let strides: Vec<usize> =
        (1..=extents.len()).map(|axis| extents[axis..].iter().product::<usize>()).collect();
    let elements = &tuple(&[storage])[1..6];
    let persistent =
        [&b"("[..], &text("storage"), b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), elements, b"tQ"];
    let (extents, strides) = (tuple(extents), tuple(&strides));
    let order = b"\x89ccollections\nOrderedDict\n)RtR";
    [&b"ctorch._utils\n_rebuild_tensor_v2\n("[..], &persistent.concat(), b"K\0", &extents, &strides, order]
        .concat()
}

/// torch's file of the projector: all tensors in one storage, which is a hole.
fn projector(path: &Path) {
    let shapes = Released::Projector.shapes();
    let storage = shapes.iter().map(|shape| shape.extents.iter().product::<usize>()).max().unwrap();
    let entries = shapes.iter().flat_map(|shape| {
        [text(shape.name.strip_prefix("image_proj.").unwrap()), tensor(&shape.extents, storage)].concat()
    });
    let entries: Vec<u8> = entries.collect();
    let pickle = [&b"\x80\x02}("[..], &text("image_proj"), b"}(", &entries, b"uu."].concat();
    let mut file = File::create(path).unwrap();
    let mut directory = Vec::new();
    for (name, bytes, data) in [
        ("a/data.pkl", pickle.len(), &pickle[..]),
        ("a/data/0", 4 * storage, &[]),
        ("a/byteorder", 6, b"little"),
    ] {
        let start = u32::try_from(file.stream_position().unwrap()).unwrap().to_le_bytes();
        let size = u32::try_from(bytes).unwrap().to_le_bytes();
        let length = u16::try_from(name.len()).unwrap().to_le_bytes();
        let name = name.as_bytes();
        file.write_all(&[b"PK\x03\x04", &[0; 14][..], &size, &size, &length, &[0; 2], name].concat())
            .unwrap();
        file.write_all(data).unwrap();
        file.seek(SeekFrom::Current(i64::try_from(bytes - data.len()).unwrap())).unwrap();
        let entry = [b"PK\x01\x02", &[0; 16][..], &size, &size, &length, &[0; 12], &start, name];
        directory.extend(entry.concat());
    }
    let start = u32::try_from(file.stream_position().unwrap()).unwrap().to_le_bytes();
    let size = u32::try_from(directory.len()).unwrap().to_le_bytes();
    file.write_all(&directory).unwrap();
    let count = 3_u16.to_le_bytes();
    file.write_all(&[b"PK\x05\x06\0\0\0\0", &count[..], &count, &size, &start, &[0; 2]].concat()).unwrap();
}

/// A file of that checkpoint as it is published; gives its place.
fn publish(scratch: &Scratch, released: Released) -> String {
    let (name, dtype, bytes) = match released {
        Released::TransformerBfl => ("bfl/flux1-dev.safetensors", "BF16", 2),
        Released::AutoencoderBfl => ("bfl/ae.safetensors", "F32", 4),
        Released::Clip => ("bfl/text_encoder/model.safetensors", "BF16", 2),
        Released::T5 => ("bfl/text_encoder_2/model.safetensors", "BF16", 2),
        Released::Transformer => ("alone/transformer/diffusion_pytorch_model.safetensors", "BF16", 2),
        Released::Autoencoder => ("alone/vae/diffusion_pytorch_model.safetensors", "BF16", 2),
        Released::InfuseNet => ("you/InfuseNetModel/diffusion_pytorch_model.safetensors", "F32", 4),
        Released::Projector => ("you/image_proj_model.bin", "F32", 4),
    };
    let path = scratch.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    if released == Released::Projector {
        projector(&path);
    } else {
        safetensors(&path, released, dtype, bytes);
    }
    path.to_str().unwrap().to_owned()
}

/// What lies around the weights: configurations as they are published, and the demo model's tokenizers, whose ids are all below FLUX's.
fn complete(scratch: &Scratch) {
    let write = |name: &str, text: &str| fs::write(scratch.path(name), text).unwrap();
    write(
        "bfl/text_encoder/config.json",
        r#"{"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
            "max_position_embeddings": 77, "hidden_act": "quick_gelu", "eos_token_id": 2}"#,
    );
    write(
        "bfl/text_encoder_2/config.json",
        r#"{"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_heads": 64, "num_layers": 24, "feed_forward_proj": "gated-gelu"}"#,
    );
    write(
        "you/InfuseNetModel/config.json",
        r#"{"_class_name": "FluxControlNetModel", "_infu_flux_version": "1.0", "attention_head_dim": 128, "axes_dims_rope": [16, 56, 56],
            "guidance_embeds": true, "in_channels": 64, "joint_attention_dim": 4096, "num_attention_heads": 24, "num_layers": 4,
            "num_mode": null, "num_single_layers": 10, "patch_size": 1, "pooled_projection_dim": 768}"#,
    );
    for name in [
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "tokenizer/tokenizer_config.json",
        "tokenizer_2/tokenizer.json",
    ] {
        let to = scratch.path(&format!("bfl/{name}"));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(repository(&format!("assets/demo/base/{name}")), to).unwrap();
    }
}

fn inspected(path: &str) -> serde_json::Value {
    let json = lighterage(&["inspect", path, "--json"]).check(0, &[]).stdout;
    serde_json::from_str(&json).unwrap()
}

#[test]
fn all_eight_are_known_by_their_fingerprints_and_say_what_a_run_needs_beside_them() {
    let scratch = Scratch::new();
    for (released, missing) in [
        (Released::TransformerBfl, "text_encoder/config.json is missing"),
        (Released::Transformer, "no model_index.json"),
        (Released::InfuseNet, "image_proj_model.bin or image_proj_model.safetensors is missing"),
        (Released::Projector, "InfuseNetModel/config.json is missing"),
        (Released::Clip, "tokenizer_2/tokenizer.json is missing"),
        (Released::T5, "text_encoder_2/config.json is missing"),
        (Released::AutoencoderBfl, "text_encoder/config.json is missing"),
        (Released::Autoencoder, "no model_index.json"),
    ] {
        let path = publish(&scratch, released);
        let found = inspected(&path);
        let part = &found["parts"][0];
        assert_eq!(part["fingerprint"], released.fingerprint(), "{path}");
        assert_eq!((&part["is_released"], &part["architecture"]), (&true.into(), &released.title().into()));
        let run = &found["run"];
        assert_eq!(run["ready"], false, "{path}");
        let faults = run["missing"].to_string();
        assert!(faults.contains(missing), "{path}: {faults}");
        lighterage(&["inspect", &path]).check(0, &[released.title(), "not ready for a run", missing]);
    }
}

/// 24 GB of transformer, 10 of T5, 12 of InfuseNet: checked, planned and within 8 GiB, in the time that headers take.
#[test]
fn the_published_files_are_ready_and_a_dry_run_plans_them_at_full_size() {
    let scratch = Scratch::new();
    Released::ALL.into_iter().for_each(|released| drop(publish(&scratch, released)));
    complete(&scratch);
    let (model, you) = (scratch.text("bfl"), scratch.text("you"));
    for (path, parts) in [(&model, 4), (&you, 2)] {
        let found = inspected(path);
        assert_eq!(found["parts"].as_array().unwrap().len(), parts, "{path}");
        assert_eq!(
            (&found["run"]["ready"], &found["run"]["missing"]),
            (&true.into(), &serde_json::json!([]))
        );
    }
    assert_eq!(inspected(&format!("{model}/flux1-dev.safetensors"))["run"]["ready"], true);
    assert_eq!(inspected(&format!("{you}/InfuseNetModel"))["run"]["ready"], true);
    lighterage(&["inspect", &you])
        .check(0, &["ready for a run", "a FLUX model (--model) goes with it", "no face network"]);

    let embedding = format!("{}:cleo", repository("assets/demo/faces/embeddings.safetensors"));
    let face = ["--infinite-you", &you, "--id-embedding", &embedding];
    let dry = |more: &[&str]| {
        let common =
            ["generate", "--prompt", "a portrait", "--dry-run", "--device", "sim", "--model", &model];
        lighterage(&[&common[..], &face, more].concat())
    };
    let planned =
        dry(&["--width", "1920", "--height", "1088", "--vram", "8GiB", "--json"]).check(0, &[]).stdout;
    let planned: serde_json::Value = serde_json::from_str(&planned).unwrap();
    let (peak, least) = (planned["peak_bytes"].as_u64().unwrap(), planned["minimum_bytes"].as_u64().unwrap());
    assert!(peak <= 8 << 30 && least < 2 << 30, "{planned}");
    let phases: Vec<&str> =
        planned["phases"].as_array().unwrap().iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["text", "identity", "control", "modulation", "denoise", "vae"]);
    dry(&["--width", "1920", "--height", "1080"]).check(2, &["the two nearest are 1072 and 1088"]);
    dry(&["--vram", "512MiB"]).check_failed(&["too small", "the smallest budget that would do"]);
}

/// The golden loop's transformer is in BFL's layout; what it becomes is, tensor by tensor, what diffusers would have written, and makes the same latents.
#[test]
fn a_transformer_of_bfl_becomes_that_of_diffusers() {
    let scratch = Scratch::new();
    let case = golden("loop-schnell-bfl-tiny");
    fs::create_dir_all(scratch.path("case/transformer")).unwrap();
    for name in ["run.json", "inputs.safetensors", "transformer/config.json"] {
        fs::copy(format!("{case}/{name}"), scratch.path(&format!("case/{name}"))).unwrap();
    }
    let to = scratch.text("case/transformer/diffusion_pytorch_model.safetensors");
    let from = format!("{case}/transformer");
    lighterage(&["convert", &from, &to, "--layout", "diffusers"]).check(
        0,
        &["FLUX transformer, BFL layout", "FLUX transformer, diffusers layout", "not ready for a run"],
    );
    let out = scratch.text("latents.safetensors");
    lighterage(&["denoise", "--dir", &scratch.text("case"), "--out", &out]).check(0, &[]);
    let before = scratch.text("before.safetensors");
    lighterage(&["denoise", "--dir", &case, "--out", &before]).check(0, &[]);
    lighterage(&["compare", &out, &before, "--tolerance", "0"]).check(0, &[]);
    // A second time there is nothing left to change.
    let again = scratch.text("again.safetensors");
    lighterage(&["convert", &to, &again, "--layout", "diffusers"]).check(0, &[]);
    assert_eq!(fs::read(&to).unwrap(), fs::read(&again).unwrap());
}

#[test]
fn only_transformers_and_autoencoders_have_a_layout_to_change() {
    let scratch = Scratch::new();
    let to = scratch.text("out.safetensors");
    let refused = |from: &str| lighterage(&["convert", from, &to, "--layout", "diffusers"]);
    refused(&golden("resampler-tiny/image_proj_model.bin")).check(2, &["image projector (resampler)"]);
    refused(&golden("infusenet-tiny/model.safetensors")).check(2, &["InfuseNet"]);
    // One more tensor is not lost in silence.
    let odd = scratch.tensors("odd.safetensors", &[("double_blocks.0.x", &[1.0])]);
    refused(&odd).check_failed(&["no FLUX transformer"]);
    assert_eq!(scratch.names(), ["odd.safetensors"]);
}
