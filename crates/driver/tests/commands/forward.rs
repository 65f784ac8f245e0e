use crate::{Scratch, error_of, golden, lighterage};

/// The outputs of a reference case, within its tolerance in f32.
#[track_caller]
fn check(module: &str, case: &str, tolerance: &str) {
    let scratch = Scratch::new();
    let out = scratch.text("out.safetensors");
    lighterage(&["forward", "--module", module, "--dir", &golden(case), "--out", &out]).check(0, &["peak"]);
    let expected = golden(&format!("{case}/expected.safetensors"));
    lighterage(&["compare", &out, &expected, "--common", "--tolerance", tolerance]).check(0, &["ok  "]);
    assert_eq!(scratch.names(), ["out.safetensors"]);
}

// Tolerances of the reference cases, tests/golden/make_golden.py.

#[test]
fn flux_cases() {
    for case in ["flux-dev-tiny", "flux-schnell-tiny", "flux-controlled-tiny"] {
        check("flux", case, "1e-5");
    }
}

#[test]
fn infusenet_cases() {
    for case in ["infusenet-tiny", "controlnet-single-tiny"] {
        check("infusenet", case, "1e-5");
    }
}

#[test]
fn text_cases() {
    check("clip", "clip-tiny", "1e-5");
    check("clip", "clip-legacy-eos-tiny", "1e-5");
    check("t5", "t5-tiny", "3e-5");
}

#[test]
fn vae_cases() {
    check("vae-encode", "vae-tiny", "1e-5");
    check("vae-decode", "vae-tiny", "1e-5");
}

// Cases of tests/golden/make_more.py: what a review with random configurations found.

#[test]
fn an_angle_of_thirty_thousand_is_torchs() {
    check("flux", "flux-guidance-30-tiny", "1e-5");
}

#[test]
fn a_t5_without_gate_and_with_odd_buckets() {
    check("t5", "t5-relu-odd-tiny", "3e-5");
}

#[test]
fn an_autoencoder_with_quantising_convolutions_and_odd_sides() {
    check("vae-encode", "vae-quant-odd-tiny", "1e-5");
    check("vae-decode", "vae-quant-odd-tiny", "1e-5");
}

/// A bf16 run is off the reference by at most twice what torch's own bf16 run is (`tests/golden/make_golden.py`).
#[track_caller]
fn check_bf16(module: &str, case: &str, output: &str, reference: &str) {
    let scratch = Scratch::new();
    let out = scratch.text("out.safetensors");
    let dir = golden(case);
    lighterage(&["forward", "--module", module, "--dir", &dir, "--dtype", "bf16", "--out", &out])
        .check(0, &[]);
    let expected = golden(&format!("{case}/expected.safetensors"));
    let ours = error_of(&out, &expected, &format!("{output}={reference}"));
    let torchs = error_of(&expected, &expected, &format!("{output}.bf16={reference}"));
    assert!(ours <= 2.0 * torchs, "{case} {output}: {ours} against torch's {torchs}");
}

#[test]
fn bf16_is_as_near_as_torchs() {
    for (module, case, output, reference) in [
        ("flux", "flux-dev-tiny", "sample", "sample.rounded"),
        ("flux", "flux-schnell-tiny", "sample", "sample.rounded"),
        ("flux", "flux-controlled-tiny", "sample", "sample.rounded"),
        ("t5", "t5-tiny", "last_hidden_state", "last_hidden_state"),
        ("clip", "clip-tiny", "pooler_output", "pooler_output"),
        ("vae-encode", "vae-tiny", "moments.mean", "moments.mean"),
        ("vae-decode", "vae-tiny", "decoded", "decoded"),
        ("flux", "flux-guidance-30-tiny", "sample", "sample.rounded"),
        ("t5", "t5-relu-odd-tiny", "last_hidden_state", "last_hidden_state"),
        ("vae-encode", "vae-quant-odd-tiny", "moments.mean", "moments.mean"),
        ("vae-decode", "vae-quant-odd-tiny", "decoded", "decoded"),
    ] {
        check_bf16(module, case, output, reference);
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let scratch = Scratch::new();
    let run = |name: &str, threads: &str| {
        let out = scratch.text(name);
        let dir = golden("flux-dev-tiny");
        let options = ["--dtype", "bf16", "--threads", threads];
        lighterage(&[&["forward", "--module", "flux", "--dir", &dir, "--out", &out], &options[..]].concat())
            .check(0, &[]);
        std::fs::read(out).unwrap()
    };
    assert_eq!(run("one", "1"), run("three", "3"));
}

#[test]
fn sim_shows_the_peak_and_writes_nothing() {
    let scratch = Scratch::new();
    let (dir, out) = (golden("flux-dev-tiny"), scratch.text("out"));
    lighterage(&["forward", "--module", "flux", "--dir", &dir, "--out", &out, "--device", "sim"])
        .check(0, &["peak"]);
    assert!(scratch.names().is_empty());
}

#[test]
fn failures_write_nothing() {
    let scratch = Scratch::new();
    let out = scratch.text("out");
    let dir = golden("flux-dev-tiny");
    let run = |module: &str, dir: &str, options: &[&str]| {
        lighterage(&[&["forward", "--module", module, "--dir", dir, "--out", &out], options].concat())
    };
    run("t5", &dir, &[]).check_failed(&["flux-dev-tiny/config.json", "d_model"]);
    run("flux", &golden("t5-tiny"), &[]).check_failed(&["t5-tiny/config.json"]);
    run("flux", &scratch.text("none"), &[]).check_failed(&["none/model.safetensors", "No such file"]);
    run("flux", &dir, &["--vram", "64KiB"]).check_failed(&["65536"]);
    lighterage(&["forward", "--module", "flux", "--dir", &dir, "--out", "/no/such/folder/x"])
        .check_failed(&["/no/such/folder"]);
    assert!(scratch.names().is_empty());
}
