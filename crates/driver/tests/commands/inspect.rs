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
    lighterage(&["inspect", &file]).check(0, &["w  1 tensor  8 bytes", "tensors       1, 2 parameters, F32"]);
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

#[test]
fn one_of_a_thing_is_not_called_several() {
    let scratch = Scratch::new();
    let one = lighterage_checkpoint::NewTensor {
        name: "w",
        dtype: lighterage_shape::DType::U8,
        shape: &[1],
        bytes: &[7],
    };
    lighterage_checkpoint::write(&scratch.path("m.safetensors"), &[one]).unwrap();
    let shown = lighterage(&["inspect", &scratch.text("m.safetensors")]).check(
        0,
        &["tensors       1, 1 parameter, U8", "weights       1 byte (1 byte)", "w  1 tensor  1 byte  1 byte"],
    );
    lighterage_checkpoint::write(&scratch.path("m.safetensors"), &[]).unwrap();
    lighterage(&["inspect", &scratch.text("m.safetensors")]).check(0, &["tensors       0, 0 parameters\n"]);
    assert!(!shown.stdout.contains("1 bytes"), "{}", shown.stdout);
}

/// What a safetensors file begins with: the length of its header.
fn headed(declared: u64, rest: &str) -> Vec<u8> {
    [&declared.to_le_bytes(), rest.as_bytes()].concat()
}

/// One line each, with the file, the tensor where there is one, and the numbers.
#[test]
fn what_is_no_checkpoint_is_said_to_be_none() {
    let entry = |shape: &str| format!(r#"{{"w":{{"dtype":"F32","shape":{shape},"data_offsets":[0,4]}}}}"#);
    let whole = |header: &str| headed(64, &format!("{header:<64}abcd"));
    let none = "not a safetensors file, or a ";
    let cases: [(&str, Vec<u8>, &[&str]); 12] = [
        ("empty.safetensors", Vec::new(), &[none, "truncated one: 0 bytes", "length alone takes 8"]),
        ("one.safetensors", b"{".to_vec(), &[none, "truncated one: 1 byte, and"]),
        (
            "text.txt",
            b"What is this?\n".to_vec(),
            &[none, "would have 2338328219647830103 bytes", "100000000"],
        ),
        ("absurd.safetensors", headed(u64::MAX, "{}"), &[none, "would have 18446744073709551615 bytes"]),
        ("none.safetensors", headed(0, "{}"), &[none, "would have 0 bytes"]),
        (
            "cut.safetensors",
            headed(1000, "{}"),
            &["truncated: the header should have 1000 bytes, 2 are there"],
        ),
        ("list.safetensors", whole("[]"), &["should begin with '{', not with '['"]),
        ("negative.safetensors", whole(&entry("[-1]")), &["tensor \"w\"", "`-1`"]),
        ("short.safetensors", whole(&entry("[2]")), &["tensor \"w\" has 4 bytes, F32[2] needs 8"]),
        (
            "longer.safetensors",
            [whole(&entry("[1]")), b"\n".to_vec()].concat(),
            &["1 byte after the last tensor: it ends at 4, the data at 5"],
        ),
        (
            "one.safetensors.index.json",
            br#"{"weight_map":{"w":"lost.safetensors"}}"#.to_vec(),
            &["shard \"lost.safetensors\" is missing, with tensor \"w\"\n"],
        ),
        (
            "two.safetensors.index.json",
            br#"{"weight_map":{"v":"lost.safetensors","w":"lost.safetensors"}}"#.to_vec(),
            &["shard \"lost.safetensors\" is missing, with tensor \"v\" and 1 more\n"],
        ),
    ];
    for (name, bytes, words) in cases {
        let scratch = Scratch::new();
        std::fs::write(scratch.path(name), bytes).unwrap();
        lighterage(&["inspect", &scratch.text(name)]).check_failed(&[&[name], words].concat());
    }
    let scratch = Scratch::new();
    lighterage(&["inspect", &scratch.text("nothing")])
        .check_failed(&["nothing: cannot open it: No such file"]);
    lighterage(&["inspect", &scratch.text("")]).check_failed(&["no *.safetensors", "in this folder"]);
    lighterage(&["inspect", "/dev/null"]).check_failed(&["/dev/null: not a regular file"]);
}
