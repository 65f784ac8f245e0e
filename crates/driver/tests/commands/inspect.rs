use crate::{Scratch, lighterage, repository};

#[test]
fn a_pipeline_is_shown_part_by_part() {
    let words = [
        "FLUX transformer, diffusers layout (FluxTransformer2DModel)",
        "T5 encoder (T5EncoderModel)",
        "CLIP text encoder (CLIPTextModel)",
        "VAE, diffusers layout (AutoencoderKL)",
        "5214656 parameters",
        "transformer_blocks.0-1",
        "single_transformer_blocks.0-3",
    ];
    lighterage(&["inspect", &repository("assets/demo/base"), "--check-weights"]).check(0, &words);
}

#[test]
fn json_counts_what_is_in_the_file() {
    let scratch = Scratch::new();
    let file = scratch
        .tensors("m.safetensors", &[("blocks.0.a", &[1.0, 2.0]), ("blocks.1.a", &[3.0, 4.0]), ("c", &[5.0])]);
    let json = lighterage(&["inspect", &file, "--json", "--tensors"]).check(0, &[]).stdout;
    let report = &serde_json::from_str::<serde_json::Value>(&json).unwrap()["parts"][0];
    assert_eq!(
        (&report["tensors"], &report["parameters"], &report["bytes"]),
        (&3.into(), &5.into(), &20.into())
    );
    let blocks = serde_json::json!([
        { "name": "blocks", "numbers": [0, 1], "tensors": 1, "bytes": 8 },
        { "name": "c", "tensors": 1, "bytes": 4 },
    ]);
    assert_eq!(report["blocks"], blocks);
    assert_eq!(
        report["list"][2],
        serde_json::json!({ "name": "c", "dtype": "F32", "shape": [1], "bytes": 4 })
    );
}

#[test]
fn weights_that_are_nan_are_found_when_asked_for() {
    let scratch = Scratch::new();
    let file = scratch.tensors("m.safetensors", &[("w", &[1.0, f32::NAN])]);
    lighterage(&["inspect", &file]).check(0, &["1 tensors"]);
    lighterage(&["inspect", &file, "--check-weights"])
        .check_failed(&["tensor \"w\" has NaN at element 1 of 2"]);
}

#[test]
fn damaged_files_are_refused_by_name_and_number() {
    let scratch = Scratch::new();
    let file = scratch.tensors("m.safetensors", &[("w", &[1.0, 2.0])]);
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 3]).unwrap();
    lighterage(&["inspect", &file]).check_failed(&[
        "m.safetensors",
        "tensor \"w\" is at 0..8",
        "5 bytes of data",
    ]);
}
