//! What a model folder has to have, and which options a model takes.

use std::fs;
use std::path::Path;

use crate::common::{base, cases, model, promise};
use lighterage_pipeline::{Job, Model, Options};
use lighterage_shape::DType;

/// A copy of the bundled model in which `change` may break something.
fn check(change: impl FnOnce(&Path), expected: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&base(), folder.path());
    change(folder.path());
    let message = Model::open(folder.path(), promise()).expect_err("refused").to_string();
    for part in expected {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&target).expect("a folder");
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).expect("a text");
    assert!(text.contains(from), "{from:?} is not in {}", path.display());
    fs::write(path, text.replace(from, to)).expect("written");
}

#[test]
fn everything_missing_is_named_at_once() {
    let remove = |folder: &Path| {
        fs::remove_file(folder.join("vae/config.json")).expect("removed");
        fs::remove_file(folder.join("tokenizer/merges.txt")).expect("removed");
        fs::remove_dir_all(folder.join("text_encoder_2")).expect("removed");
    };
    let expected = [
        "vae/config.json is missing",
        "tokenizer/tokenizer.json or merges.txt is missing",
        "text_encoder_2/config.json is missing",
        "text_encoder_2/model.safetensors or model.safetensors.index.json is missing",
    ];
    check(remove, &expected);
    check(|folder| fs::remove_file(folder.join("model_index.json")).expect("removed"), &["model_index.json"]);
}

#[test]
fn wrong_classes_are_named() {
    let index = |folder: &Path| folder.join("model_index.json");
    check(
        |folder| replace(&index(folder), "FluxTransformer2DModel", "SD3Transformer2DModel"),
        &["transformer is a SD3Transformer2DModel, should be a FluxTransformer2DModel"],
    );
    check(
        |folder| replace(&index(folder), "\"FluxPipeline\"", "\"FluxFillPipeline\""),
        &["_class_name is \"FluxFillPipeline\", should be \"FluxPipeline\""],
    );
    check(|folder| replace(&index(folder), "\"vae\"", "\"decoder\""), &["model_index.json: vae is missing"]);
}

#[test]
fn parts_that_do_not_fit_together_are_named() {
    check(
        |folder| {
            replace(
                &folder.join("transformer/config.json"),
                "\"joint_attention_dim\": 64",
                "\"joint_attention_dim\": 96",
            );
        },
        &["transformer/config.json", "joint_attention_dim is 96, should be 64"],
    );
    check(
        |folder| {
            replace(&folder.join("vae/config.json"), "\"latent_channels\": 16", "\"latent_channels\": 4");
        },
        &["in_channels is 64, should be 16"],
    );
}

#[test]
fn a_default_that_cannot_be_names_its_file() {
    let small =
        |folder: &Path| fs::write(folder.join("generation_config.json"), r#"{"width": 2}"#).expect("written");
    check(small, &["generation_config.json", "width is 2, should be a multiple of 16"]);
}

#[test]
fn a_configuration_out_of_range_names_its_file() {
    let change = |from: &'static str, to: &'static str| {
        move |folder: &Path| replace(&folder.join("transformer/config.json"), from, to)
    };
    check(
        change("\"patch_size\": 1", "\"patch_size\": 2"),
        &["transformer/config.json", "patch_size is 2, should be 1"],
    );
}

#[test]
fn truncated_weights_name_the_file() {
    let truncate = |folder: &Path| {
        let path = folder.join("transformer/diffusion_pytorch_model.safetensors");
        let file = fs::OpenOptions::new().write(true).open(path).expect("opened");
        file.set_len(1_000_000).expect("truncated");
    };
    check(truncate, &["transformer/diffusion_pytorch_model.safetensors"]);
}

#[test]
fn defaults_are_those_of_the_folder() {
    let Options { steps, width, height, guidance, max_sequence_length, dtype, .. } = model().options("");
    assert_eq!((steps, width, height, guidance, max_sequence_length), (20, 64, 64, 2.5, 32));
    assert_eq!(dtype, DType::Bf16);
}

#[test]
fn options_outside_are_refused_before_anything_is_read() {
    let model = model();
    let refused = |options| Job::new(&model, options).expect_err("refused").to_string();
    let good = || cases()[0].options(&model, DType::Bf16);
    assert_eq!(refused(Options { width: 70, ..good() }), "width is 70, should be a multiple of 16: 64 or 80");
    assert_eq!(refused(Options { steps: 0, ..good() }), "steps is 0, should be 1 to 1000");
}

#[test]
fn sound_weights_pass_the_check() {
    let model = model();
    Job::new(&model, Options { check_weights: true, ..model.options("a cat") }).unwrap();
}

#[test]
fn a_weight_that_is_no_number_is_found_on_request() {
    let folder = tempfile::tempdir().unwrap();
    copy(&base(), folder.path());
    let path = folder.path().join("transformer/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    // The last element of the last tensor, bf16: a quiet NaN.
    bytes[end - 2..].copy_from_slice(&[0xc0, 0x7f]);
    fs::write(&path, bytes).unwrap();
    let model = Model::open(folder.path(), promise()).unwrap();
    Job::new(&model, model.options("")).unwrap();
    let error =
        Job::new(&model, Options { check_weights: true, ..model.options("") }).unwrap_err().to_string();
    assert!(error.contains("NaN") && error.contains("diffusion_pytorch_model.safetensors"), "{error}");
}

/// As Black Forest Labs publish it: transformer and autoencoder in a file each, here with configurations since the demo model's sizes are its own.
#[test]
fn one_file_with_the_rest_around_it_is_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    copy(&base(), root);
    fs::rename(
        root.join("transformer/diffusion_pytorch_model.safetensors"),
        root.join("flux1-demo.safetensors"),
    )
    .unwrap();
    fs::rename(root.join("vae/diffusion_pytorch_model.safetensors"), root.join("ae.safetensors")).unwrap();
    for gone in ["model_index.json", "scheduler/scheduler_config.json"] {
        fs::remove_file(root.join(gone)).unwrap();
    }
    let latents = |path: &Path| {
        let model = Model::open(path, promise()).unwrap();
        let job = Job::new(&model, Options { steps: 1, ..model.options("a cat") }).unwrap();
        let device = crate::common::host(lighterage_device::HostConfig::default(), 64 << 20);
        let forecast = job.survey(device.info().page_bytes).unwrap().within(64 << 20).unwrap();
        let keep = lighterage_pipeline::Keep { latents: true, ..Default::default() };
        job.run(&device, &forecast, keep, &mut ()).unwrap().latents.unwrap()
    };
    let whole = latents(&base());
    assert_eq!(latents(root), whole);
    assert_eq!(latents(&root.join("flux1-demo.safetensors")), whole);
}

#[test]
fn positions_that_the_table_does_not_have_are_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    copy(&base(), folder.path());
    let config = folder.path().join("text_encoder/config.json");
    // Two billion padding tokens would be made before anybody looked.
    replace(&config, "\"max_position_embeddings\": 77", "\"max_position_embeddings\": 2147483647");
    let model = Model::open(folder.path(), promise()).unwrap();
    let error = Job::new(&model, model.options("")).unwrap_err().to_string();
    assert!(error.contains("max_position_embeddings is 2147483647") && error.contains("77 rows"), "{error}");
}
